.PHONY: load

load: setup  ## find the highest rate of mixed traffic, and keep it up while workers are killed
	@LOAD_SECONDS=180 $(BIN)/python -m pytest -s tests/load
