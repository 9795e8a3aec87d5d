.PHONY: manifests tools-lock

TOOLS := $(VENV)/kubernetes
TOOLS_LOCK := deploy/kubernetes/tools.lock

manifests: setup $(TOOLS)/.done  ## build the manifests for Kubernetes and check them
	@$(BIN)/python -m pytest tests/deploy

$(TOOLS)/.done: $(TOOLS_LOCK) | setup
	@echo "Setting up $(TOOLS) (once; about a minute) ..."
	@$(BIN)/python -m venv $(TOOLS)
	@$(TOOLS)/bin/pip install -qq --disable-pip-version-check --require-hashes -r $(TOOLS_LOCK)
	@touch $@

lock: tools-lock

tools-lock: setup
	@$(COMPILE) deploy/kubernetes/tools.in -o $(TOOLS_LOCK)
