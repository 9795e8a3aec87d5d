.PHONY: guards rollout audit sbom

test: guards rollout

guards: setup  ## check security, the image, the workflow, migrations and locks
	@echo "Guarding ..."
	@$(BIN)/bandit -q -c pyproject.toml -r src scripts migrations
	@$(BIN)/hadolint Dockerfile
	@$(BIN)/zizmor -q --offline .github/workflows
	@$(BIN)/python scripts/lint_migrations.py
	@$(BIN)/python scripts/check_locks.py

rollout: setup  ## run the code of the commit before on the schema of now (BASE=...)
	@BASE="$(BASE)" TESTS="$(TESTS)" $(BIN)/python scripts/rollout.py

# The development lock has all that is in the first one, and its tools see what CI may do. Workers may
# be deployed with the library of another backend.
audit: setup  ## ask for known vulnerabilities of what is locked; needs a network
	@for lock in requirements-dev.lock backends/*.lock deploy/kubernetes/tools.lock; do \
	$(BIN)/pip-audit --progress-spinner off --require-hashes --disable-pip -r $$lock || exit; done

sbom: setup  ## write sbom.json, the bill of materials (CycloneDX) of what is deployed
	@$(BIN)/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml \
	--output-reproducible -o sbom.json
