.PHONY: manifests tools-lock

TOOLS := $(VENV)/kubernetes
TOOLS_LOCK := deploy/kubernetes/tools.lock

manifests: setup $(TOOLS)/.done  ## build the manifests for Kubernetes and check them
	@$(BIN)/python -m pytest tests/deploy

$(TOOLS)/.done: $(TOOLS_LOCK) | setup
	@echo "Setting up $(TOOLS) (once; about a minute) ..."
	@$(BIN)/uv venv -q --clear --python $(BIN)/python $(TOOLS)
	@$(BIN)/uv pip sync -q --require-hashes --python $(TOOLS)/bin/python $(TOOLS_LOCK)
	@touch $@

lock: tools-lock

tools-lock: setup
	@$(COMPILE) deploy/kubernetes/tools.in -o $(TOOLS_LOCK)
