.PHONY: dev up down

dev: setup  ## run the API, its worker and a Postgres of its own in this terminal
	@$(BIN)/spine dev

up:  ## run it all on Docker Compose, on http://127.0.0.1:8000
	@sh scripts/compose.sh up --build --detach --wait

down:  ## stop what `make up` started; its data is kept
	@sh scripts/compose.sh down
