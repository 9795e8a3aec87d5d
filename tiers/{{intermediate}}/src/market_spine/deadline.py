"""How long a query may take, said by whoever cannot wait for ever, and kept by the store.

The API sets it for each request; commands and pipelines do not, and their queries take their time.
"""

from contextvars import ContextVar

# Seconds for each statement that this context sends; None: as long as it takes.
query_seconds: ContextVar[float | None] = ContextVar("query_seconds", default=None)
