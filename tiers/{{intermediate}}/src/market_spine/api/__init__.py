"""The HTTP API: it writes requests into the ledger and reads what came of them; it runs nothing."""
