# What a maintainer of the template types. Needs Python 3.11 or newer, git and make.
PYTHON ?= python3
TIER ?= basic
VENV := .venv
BIN := $(VENV)/bin

# The tiers that exist are those that copier.yml offers.
TIERS := $(shell sed -n '/^  choices:/,/^  default:/s/^    \([a-z]*\):.*/\1/p' copier.yml)
RENDERS := $(TIERS:%=render-%)
ifeq ($(filter $(TIER),$(TIERS)),)
$(error There is no tier '$(TIER)'; there are: $(TIERS))
endif

# Copier commits uncommitted edits in a clone of its own; it must not depend on who is at work here.
COPIER = GIT_AUTHOR_NAME=draft GIT_AUTHOR_EMAIL=draft GIT_COMMITTER_NAME=draft GIT_COMMITTER_EMAIL=draft \
	$(BIN)/python -W ignore -m copier

.PHONY: help tiers setup demo test render $(RENDERS) check book churn impact bench lock clean
.DEFAULT_GOAL := help

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

tiers:  ## list the tiers that exist, as JSON
	@printf '"%s"\n' $(TIERS) | paste -sd , - | sed 's/.*/[&]/'

setup: $(VENV)/.done  ## make .venv with the locked tools

$(VENV)/.done: requirements-dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.12")'
	@echo "Setting up $(VENV) (once; about a minute) ..." >&2
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -qq --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

demo: render-$(TIER)  ## render a tier and run its demo (TIER=basic)
	@$(MAKE) --no-print-directory -C out/market-spine-$(TIER) demo

test: setup  ## test the template, and every tier that it renders
	@echo "Testing the template and what it renders (half an hour) ..."
	@$(BIN)/python -m pytest

render: $(RENDERS)  ## render every tier into out/market-spine-<tier>/

# From the working tree as it stands. What is slow to make again survives from the last time.
$(RENDERS): render-%: setup
	@echo "Rendering $* into out/market-spine-$* ..." >&2
	@rm -rf out/.new-$*
	@$(COPIER) copy --quiet --defaults --vcs-ref HEAD --data tier=$* "$(CURDIR)" out/.new-$* >&2
	@old=out/market-spine-$* new=out/.new-$*; \
	for kept in .venv .mypy_cache; do if [ -e $$old/$$kept ]; then mv $$old/$$kept $$new; fi; done; \
	if cmp -s $$old/requirements-dev.lock $$new/requirements-dev.lock \
	&& cmp -s $$old/pyproject.toml $$new/pyproject.toml \
	&& [ -e $$new/.venv/.done ]; then touch $$new/.venv/.done; fi; \
	rm -rf $$old && mv $$new $$old

check: render  ## lint and type-check the template's own code, and that of every tier
	@echo "Checking data/ and tests/ ..."
	@$(BIN)/ruff check -q data tests && $(BIN)/ruff format -q --check data tests && $(BIN)/mypy --no-error-summary
	@set -e; for tier in $(TIERS); do \
	echo "Checking out/market-spine-$$tier ..."; \
	$(MAKE) --no-print-directory -C out/market-spine-$$tier lint; done

book: render-$(TIER)  ## print a tier as one Markdown document (TIER=basic)
	@cd out/market-spine-$(TIER) && sh "$(CURDIR)/.ci/book" $(TIER)

churn: setup  ## measure what each tier keeps of the one below; fails under the bars
	@$(BIN)/python tests/growth.py

impact: setup  ## show what the edits since the last commit do to each tier
	@$(BIN)/python tests/impact.py

bench: setup  ## time the pipeline of every tier against its limit
	@set -e; for tier in $(TIERS); do $(BIN)/python tests/benchmarks/bench.py all --tier $$tier; done

lock: setup  ## lock the tools anew, after pyproject.toml has changed
	@$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --no-emit-index-url --group dev -o requirements-dev.lock

clean:  ## remove what was made here
	rm -rf $(VENV) out .mypy_cache .pytest_cache .ruff_cache
