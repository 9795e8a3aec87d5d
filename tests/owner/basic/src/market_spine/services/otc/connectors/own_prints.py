"""Two prints of the house's own."""

from collections.abc import Iterator

from market_spine.services.otc.connector import FetchRequest, Record, matching


def fetch(request: FetchRequest) -> Iterator[Record]:
    """Stream the records that fit the request."""
    sizes = ("100", "200")
    rows = ({"ms": "36000000", "price": "500000", "size": size, "at": "HOUSE"} for size in sizes)
    records = (Record("own_20251125", number, row) for number, row in enumerate(rows, start=1))
    return matching(records, request)
