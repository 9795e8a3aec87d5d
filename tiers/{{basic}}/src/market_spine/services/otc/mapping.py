"""Mappings: how a vendor's row becomes a row of the standard layout, from a TOML file alone.

A source is named after its mapping file. The output is text again, in the terms of the standard
layout, so that one set of rules (`records.py`) judges every vendor's rows.
"""

import re
import tomllib
from collections.abc import Callable, Sequence
from datetime import date
from functools import cached_property, lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Literal, Self, get_args
from zoneinfo import available_timezones

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from market_spine.errors import NotFoundError, SourceError
from market_spine.services.otc.conditions import CONDITIONS
from market_spine.services.otc.readers import (
    TIMES,
    Payload,
    Reader,
    RejectedError,
    file_date,
    reader,
)

FieldName = Literal[
    "trade_id",
    "source_seq",
    "event",
    "symbol",
    "trade_ts",
    "reported_at",
    "price",
    "size",
    "side",
    "venue",
    "conditions",
]
FIELDS: tuple[FieldName, ...] = get_args(FieldName)  # the standard layout, in its order
REQUIRED: tuple[FieldName, ...] = ("symbol", "trade_ts", "price", "size")
EXTRA = "\n"  # the column that holds what a row has beyond its header; no header has it
StandardRow = Sequence[str | None]  # in the order of FIELDS; None where a field is not mapped


class DatePart(BaseModel):
    """Where the date of a time stands that the source sends without one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    column: str | None = None
    file_name: str | None = None  # a pattern whose first group is the date
    format: str = "%Y%m%d"

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.column is None) == (self.file_name is None):
            raise ValueError("give either column or file_name")
        try:
            groups = re.compile(self.file_name or "()").groups
        except re.error as error:
            raise ValueError(f"file_name is not a pattern: {error}") from error
        if groups != 1:
            raise ValueError("file_name must be a pattern with one group")
        return self


class FieldRule(BaseModel):
    """How one field is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    column: str | None = None
    value: str | None = None  # the same for every row
    values: dict[str, str] | None = None  # the vendor's words for ours
    scale: int | None = Field(None, gt=0)  # price and size: the source sends them times this
    unit: Literal["s", "ms", "us"] | None = None  # times: a count since midnight, or since 1970
    format: str | None = None  # times: a strptime pattern, where it is not ISO 8601
    zone: str | None = None  # times: where the clock stands, if the text does not say
    date: DatePart | None = None  # times: where the date stands, if not in the column
    codes: dict[str, str] | Literal["tape"] | None = None  # conditions: each character is one
    flags: dict[int, str] | None = None  # conditions: bits of a number
    base: Literal[10, 16] = 10  # of that number

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.column is None) == (self.value is None):
            raise ValueError("give either column or value")
        if self.zone is not None and self.zone not in available_timezones():
            raise ValueError(f"zone: '{self.zone}' is not a time zone such as America/New_York")
        if self.date is not None and self.unit is None and self.format is None:
            raise ValueError("date: needs a unit or a format for the time of day")
        if self.date is not None and self.zone is None:
            raise ValueError("date: needs a zone")
        codes = self.codes if isinstance(self.codes, dict) else {}
        for name in [*(self.flags or {}).values(), *codes.values()]:
            if name not in CONDITIONS:
                raise ValueError(f"'{name}' is not a condition ({', '.join(CONDITIONS)})")
        return self


class SourceMapping(BaseModel):
    """A mapping file."""

    model_config = ConfigDict(extra="forbid", frozen=True, ignored_types=(cached_property,))

    columns: tuple[str, ...] | None = None  # of files without a header
    delimiter: str = Field(",", min_length=1, max_length=1)
    fields: dict[FieldName, FieldRule]

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, given: object) -> object:
        if isinstance(given, dict) and isinstance(given.get("fields"), dict):
            rules = {
                name: {"column": rule} if isinstance(rule, str) else rule
                for name, rule in given["fields"].items()
            }
            return {**given, "fields": rules}
        return given

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        missing = [name for name in REQUIRED if name not in self.fields]
        if missing:
            raise ValueError(f"fields: needs {', '.join(missing)}")
        for name, rule in self.fields.items():
            if name not in TIMES and (rule.unit or rule.format or rule.zone or rule.date):
                raise ValueError(f"fields.{name}: unit, format, zone and date are for times")
            if name not in ("price", "size") and rule.scale:
                raise ValueError(f"fields.{name}: scale is for price and size")
            if name != "conditions" and (rule.codes or rule.flags):
                raise ValueError(f"fields.{name}: codes and flags are for conditions")
        unknown = self.needed_columns - set(self.columns or self.needed_columns)
        if unknown:
            raise ValueError(f"columns: lacks {', '.join(sorted(unknown))}, which a field reads")
        return self

    @cached_property
    def needed_columns(self) -> frozenset[str]:
        """The columns without which a row cannot be read."""
        rules = self.fields.values()
        dates = {rule.date.column for rule in rules if rule.date and rule.date.column}
        return frozenset({rule.column for rule in rules if rule.column is not None} | dates)

    @cached_property
    def readers(self) -> dict[str, Reader]:
        """For each mapped field, the function that reads it from a payload and its file's name."""
        return {name: reader(name, rule) for name, rule in self.fields.items()}

    @cached_property
    def _columns(self) -> Callable[[Payload], tuple[str, ...]]:
        """Takes the needed columns out of a payload, those of the fields first and in order."""
        of_fields = [rule.column for rule in self.fields.values() if rule.column is not None]
        dates = [rule.date.column for rule in self.fields.values() if rule.date is not None]
        names = [*of_fields, *(name for name in dates if name is not None)]
        return itemgetter(*names) if len(names) > 1 else lambda payload: (payload[names[0]],)

    @cached_property
    def _special(self) -> list[tuple[int, Reader]]:
        """The fields that are not simply a column's text, by their place."""
        return [
            (place, self.readers[name])
            for place, name in enumerate(FIELDS)
            if name in self.fields and self.fields[name].model_fields_set != {"column"}
        ]

    @cached_property
    def _places(self) -> list[int] | None:
        """Where the columns of the fields belong; None if every field has one, in order."""
        places = [FIELDS.index(name) for name, rule in self.fields.items() if rule.column]
        return None if places == [*range(len(FIELDS))] else places

    def translate(self, payload: Payload, file_name: str) -> StandardRow:
        """A payload in the standard layout.

        Raises:
            RejectedError: the row has another shape than its header, or a field cannot be decoded.
        """
        if EXTRA in payload:
            raise RejectedError("row", "has more fields than the header")
        try:
            columns = self._columns(payload)
        except KeyError as missing:
            raise RejectedError("row", f"lacks the field '{missing.args[0]}'") from None
        row: list[str | None] = [*columns]
        if self._places is not None:
            row = [None] * len(FIELDS)
            for place, text in zip(self._places, columns, strict=False):
                row[place] = text
        for place, read in self._special:
            row[place] = read(payload, file_name)
        return row

    def date_of_file(self, file_name: str) -> date | None:
        """The date that a file's name gives to all its rows, if it is taken from there."""
        rule = self.fields["trade_ts"]
        if "reported_at" in self.fields or rule.date is None or rule.date.file_name is None:
            return None
        try:
            return file_date(rule.date, file_name)
        except ValueError:
            return None


def load_mapping(folder: Path, source: str) -> SourceMapping:
    """The mapping of a source.

    Raises:
        NotFoundError: the folder has no file for it.
        SourceError: the file is not TOML, or says something that a mapping cannot.
    """
    path = folder / f"{source}.toml"
    if Path(source).name != source or not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.toml"))) or "none"
        raise NotFoundError(f"no mapping {path} for the source '{source}' (there are: {known})")
    return _load(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _load(path: Path, _changed: int) -> SourceMapping:
    try:
        return SourceMapping.model_validate(tomllib.loads(path.read_text("utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: not a TOML file: {error}") from error
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        reason = fault["msg"].removeprefix("Value error, ")
        raise SourceError(f"{path}: {where or 'mapping'}: {reason}") from error
