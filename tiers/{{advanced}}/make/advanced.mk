.PHONY: chaos

ROUNDS ?= 50
SEED ?= 1

chaos: setup  ## kill, pause and empty what it runs on, at random (ROUNDS=50 SEED=1)
	@ROUNDS=$(ROUNDS) SEED=$(SEED) $(BIN)/python -m pytest -x tests/chaos
