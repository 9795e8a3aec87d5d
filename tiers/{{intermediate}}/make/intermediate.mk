.PHONY: dev up down

dev: setup  ## run the API, its worker and a Postgres of its own in this terminal
	@$(BIN)/spine dev

up:  ## run it all on Docker Compose
	@sh scripts/compose.sh up --build --detach --wait

down:  ## stop what `make up` started; its data is kept
	@sh scripts/compose.sh down
