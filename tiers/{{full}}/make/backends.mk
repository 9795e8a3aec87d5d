# Backends that are extras: the library of each is in an environment of its own.
ENGINES = dagster dbos prefect temporal

.PHONY: backends $(ENGINES:%=lock-%)

backends: $(ENGINES:%=$(VENV)/backends/%/.done)  ## make an environment for each further backend

# What an installation would add: the package on the path, and its command.
$(VENV)/backends/%/.done: backends/%.lock | setup
	@$(BIN)/uv venv -q --clear --python $(BIN)/python $(@D)
	@$(BIN)/uv pip sync -q --require-hashes --python $(@D)/bin/python $<
	@echo $(CURDIR)/src >$$(echo $(@D)/lib/python*/site-packages)/market_spine.pth
	@sed '1s|.*|#!$(abspath $(@D))/bin/python|' $(BIN)/spine >$(@D)/bin/spine && chmod +x $(@D)/bin/spine
	@touch $@

lock: $(ENGINES:%=lock-%)

$(ENGINES:%=lock-%): lock-%: setup
	@$(COMPILE) pyproject.toml --extra $* -o backends/$*.lock
