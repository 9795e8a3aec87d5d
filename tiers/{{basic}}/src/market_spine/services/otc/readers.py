"""How one field of the standard layout is read from a vendor's row: a function for each rule.

The functions give text, in the terms of the standard layout, or refuse the row by name and reason.
"""

import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from market_spine.schema import EPOCH
from market_spine.services.otc.conditions import TAPE_CODES

if TYPE_CHECKING:
    from market_spine.services.otc.mapping import DatePart, FieldRule

TIMES = ("trade_ts", "reported_at")
UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000}  # how many make a second

Payload = Mapping[str, str]  # a row as the source sent it
Reader = Callable[[Payload, str], str]  # from a payload and its file's name


class RejectedError(Exception):
    """A record that breaks a rule: the field at fault and the reason."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


def reader(name: str, rule: "FieldRule") -> Reader:
    """The function that reads a field by its rule, or refuses the row with RejectedError."""
    if name in TIMES and (rule.unit or rule.format or rule.zone):
        read = _time_reader(name, rule)
    elif rule.scale is not None:
        read = _scaled_reader(name, rule)
    elif rule.codes is not None:
        read = _codes_reader(rule)
    elif rule.flags is not None:
        read = _flags_reader(rule)
    else:
        read = _text(rule)
    if rule.values is None:
        return read
    return _values_reader(name, rule.values, read)


def _text(rule: "FieldRule") -> Reader:
    if rule.column is None:
        constant = rule.value or ""
        return lambda _payload, _file_name: constant
    column = rule.column
    return lambda payload, _file_name: payload[column]


def _values_reader(name: str, values: dict[str, str], inner: Reader) -> Reader:
    def read(payload: Payload, file_name: str) -> str:
        text = inner(payload, file_name)
        if text not in values:
            raise RejectedError(name, f"'{text[:40]}' is not in the mapping's values")
        return values[text]

    return read


def _scaled_reader(name: str, rule: "FieldRule") -> Reader:
    inner, scale = _text(rule), Decimal(rule.scale or 1)

    def read(payload: Payload, file_name: str) -> str:
        text = inner(payload, file_name)
        try:
            value = Decimal(text)
            exact = value / scale
            if exact * scale != value:
                raise RejectedError(name, f"'{text[:40]}' divided by {scale} has no exact value")
            return format(exact, "f")
        except (InvalidOperation, ValueError, OverflowError):
            return text  # no number: the rules for the field will name it

    return read


def _codes_reader(rule: "FieldRule") -> Reader:
    inner = _text(rule)
    codes = rule.codes if isinstance(rule.codes, dict) else TAPE_CODES

    @lru_cache(maxsize=4096)
    def decode(text: str) -> str:
        for code in text:
            if code not in codes:
                raise RejectedError("conditions", f"'{code}' is not a known code")
        return " ".join(dict.fromkeys(codes[code] for code in text))

    return lambda payload, file_name: decode(inner(payload, file_name))


def _flags_reader(rule: "FieldRule") -> Reader:
    inner, flags, base = _text(rule), rule.flags or {}, rule.base

    @lru_cache(maxsize=4096)
    def decode(text: str) -> str:
        try:
            number = int(text, base)
        except ValueError:
            number = -1
        if number < 0:
            raise RejectedError("conditions", f"'{text[:40]}' is not a number in base {base}")
        bits = [bit for bit in range(number.bit_length()) if number >> bit & 1]
        for bit in bits:
            if bit not in flags:
                raise RejectedError("conditions", f"bit {bit} of '{text[:40]}' is not a known flag")
        return " ".join(dict.fromkeys(flags[bit] for bit in bits))

    return lambda payload, file_name: decode(inner(payload, file_name))


def file_date(part: "DatePart", file_name: str) -> date:
    """The date in a file's name; ValueError if there is none."""
    found = re.search(part.file_name or "", file_name)
    if not found or found.group(1) is None:
        raise ValueError("no date in the file's name")
    return _day(found.group(1), part.format)


def _time_reader(name: str, rule: "FieldRule") -> Reader:
    inner, zone = _text(rule), ZoneInfo(rule.zone or "UTC")
    part, per_second = rule.date, UNITS.get(rule.unit or "", 1)

    @lru_cache(maxsize=64)
    def day_of(text: str) -> date:
        if part is None:
            raise ValueError("no date")
        return file_date(part, text) if part.column is None else _day(text, part.format)

    @lru_cache(maxsize=4096)
    def minute(day: date, number: int) -> tuple[str, str]:
        """A minute of a day as text, and the zone's offset in it."""
        start = datetime.combine(day, time(*divmod(number, 60)), zone)
        return f"{start:%Y-%m-%dT%H:%M}", _offset(start)

    def read(payload: Payload, file_name: str) -> str:
        text = inner(payload, file_name)
        if not text:
            return text
        try:
            day = None
            if part is not None:
                day = day_of(file_name if part.column is None else payload[part.column])
            if rule.unit:
                seconds, rest = divmod(_digits(text), per_second)
                if day is None:
                    days, seconds = divmod(seconds, 86_400)
                    day = date.fromordinal(EPOCH.toordinal() + days)
                start, offset = minute(day, seconds // 60)
                return f"{start}:{seconds % 60:02}.{rest * (1_000_000 // per_second):06}{offset}"
            if rule.format:
                clock = datetime.strptime(text, rule.format)
                clock = datetime.combine(day, clock.time(), clock.tzinfo) if day else clock
                return (clock if clock.tzinfo else clock.replace(tzinfo=zone)).isoformat()
            clock = datetime.fromisoformat(text)
            # The text keeps its own decimals: `records.py` refuses more than it can hold.
            return text if clock.tzinfo else text + _offset(clock.replace(tzinfo=zone))
        except (ValueError, OverflowError):
            reason = f"'{text[:40]}' is not a time as the mapping describes it"
            raise RejectedError(name, reason) from None

    return read


def _day(text: str, pattern: str) -> date:
    return datetime.strptime(text, pattern).date()


def _offset(clock: datetime) -> str:
    digits = f"{clock:%z}"
    return f"{digits[:3]}:{digits[3:]}"


def _digits(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ValueError("not a whole number")
    return int(text)
