.PHONY: dev up down data-stays

dev: setup  ## run all of it, with servers of its own, in this terminal
	@$(BIN)/spine dev

up:  ## run it all on Docker Compose
	@sh scripts/compose.sh up --build --detach --wait

down:  ## stop what `make up` started; its data is kept
	@sh scripts/compose.sh down

clean: data-stays

# Where root's embedded server may have it, too.
data-stays:
	@for data in .spine /var/lib/market-spine-*; do \
	if [ -d $$data/postgres ] && { [ $$data = .spine ] || [ $$data/repo -ef . ]; }; then \
	echo "The data stays; to remove it as well: rm -r $$data"; fi; done
