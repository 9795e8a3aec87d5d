"""One backfill of the sample, as the OpenAPI document shows it in its examples."""

from typing import Any

PARENT_ID = "019ac1f0-3a5e-7c41-9b12-6f0d2c8e4a01"
CHILD_ID = "019ac1f0-3b02-7d93-8a55-1e7b9c0d5f12"
BACKFILL = {"start_date": "2025-11-24", "end_date": "2025-12-05"}

SUBMISSION: dict[str, Any] = {"pipeline": "otc_backfill_range", "params": BACKFILL}

EXECUTION: dict[str, Any] = {
    "id": PARENT_ID,
    "pipeline": "otc_backfill_range",
    "params": {"connector": "file", "source": "otc", **BACKFILL},
    "lane": "backfill",
    "trigger_source": "api",
    "status": "succeeded",
    "attempt": 1,
    "max_attempts": 3,
    "version": 4,
    "idempotency_key": "backfill-2025-11-24",
    "cancel_requested": False,
    "parent_id": None,
    "root_id": PARENT_ID,
    "retry_of": None,
    "result": {"days": 9},
    "error": None,
    "created_at": "2025-12-06T09:30:00.123456Z",
    "started_at": "2025-12-06T09:30:00.130211Z",
    "finished_at": "2025-12-06T09:30:04.901007Z",
}

EVENT: dict[str, Any] = {
    "execution_id": CHILD_ID,
    "seq": 3,
    "kind": "captured",
    "at": "2025-12-06T09:30:01.018273Z",
    "data": {"records": 261},
}

DEAD_LETTER: dict[str, Any] = {
    "id": "019ac1f0-3c77-7a20-b3f4-5d1c0e9b7a34",
    "kind": "record",
    "execution_id": CHILD_ID,
    "capture_id": CHILD_ID,
    "raw_id": 1042,
    "record_hash": "dfa560ef7818efd4d4b4407a0a63b7b08d9ffae0d3c645fa61ebe57e04c2b336",
    "payload": '{"conditions":"@y","price":"18.40","size":"100","symbol":"ALDRF"}',
    "field": "conditions",
    "reason": "'y' is not a known code",
    "created_at": "2025-12-06T09:30:01.018273Z",
    "closed_at": None,
    "retried_as": None,
}

METRICS: dict[str, Any] = {
    "symbol": "ALDRF",
    "date": "2025-11-24",
    "trade_count": 105,
    "total_volume": "125274.050400",
    "total_notional": "2352631.747320",
    "vwap": "18.77988091",
    "high_price": "18.950000",
    "low_price": "18.600000",
    "open_price": "18.650000",
    "close_price": "18.930000",
    "range_bps": "186.3697",
    "buy_vwap": "18.84998893",
    "sell_vwap": "18.73146897",
    "side_spread_bps": "63.1101",
    "venue_count": 7,
    "computed_at": "2025-12-06T09:30:01.018273Z",
}

TRADE: dict[str, Any] = {
    "trade_id": "20251124-00000002",
    "source": "otc",
    "source_seq": 1000001,
    "event": "original",
    "symbol": "ALDRF",
    "trade_date": "2025-11-24",
    "trade_ts": "2025-11-24T09:48:57.466671Z",
    "reported_at": "2025-11-24T09:49:03.783914Z",
    "price": "18.420000",
    "size": "8.000000",
    "notional": "147.360000",
    "side": None,
    "venue": "PIKE",
    "conditions": "form_t odd_lot",
    "price_eligible": False,
    "volume_eligible": True,
    "capture_id": CHILD_ID,
    "record_hash": "f013232c33702ed40b22c1a384725cc754bd072e3ee327d5bc69894c529bb104",
    "known_from": "2025-12-06T09:30:01.018273Z",
}
