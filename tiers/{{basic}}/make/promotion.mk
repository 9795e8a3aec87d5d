.PHONY: promote update

promote: setup  ## go up to a higher tier, keeping every edit (TIER=...)
	@$(BIN)/python scripts/promote.py "$(TIER)"

update: setup  ## go to the newest version of the template, keeping every edit
	@$(BIN)/python scripts/promote.py
