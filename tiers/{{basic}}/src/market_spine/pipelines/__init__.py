"""The registry: a pipeline is a module in this folder, named like the pipeline, with a `PIPELINE`.

A module imports what does the work inside its function, so that whoever only submits starts without
it; one that cannot be imported is refused alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from importlib import import_module
from pkgutil import iter_modules
from typing import Annotated, Any, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from market_spine.context import Context
from market_spine.errors import RequestError

FIRST_DAY, LAST_DAY = date(1970, 1, 2), date(2199, 12, 30)  # a time in silver lies between
FIRST_INSTANT = datetime(1970, 1, 2, tzinfo=UTC)  # so that every store can hold it


def _iso_day(given: object) -> object:
    """Text is a date in ISO, and not seconds since 1970, as pydantic would take it."""
    return date.fromisoformat(given) if isinstance(given, str) else given


def _iso_instant(given: object) -> object:
    return datetime.fromisoformat(given) if isinstance(given, str) else given


Day = Annotated[date, BeforeValidator(_iso_day), Field(ge=FIRST_DAY, le=LAST_DAY)]
Instant = Annotated[AwareDatetime, BeforeValidator(_iso_instant), Field(ge=FIRST_INSTANT)]


class Params(BaseModel):
    """Base of every pipeline's params: nothing unknown is accepted."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DateRange(Params):
    """New York dates, both included; an unset one leaves its side open."""

    start_date: Day | None = None
    end_date: Day | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.start_date and self.end_date and self.start_date > self.end_date:
            raise ValueError(f"start_date {self.start_date} is after end_date {self.end_date}")
        return self


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A kind of work."""

    name: str
    description: str
    params: type[Params]
    run: Callable[[Context, Any], dict[str, Any]]  # the result is kept with the execution
    lane: str = "default"
    max_attempts: int = 3


def names() -> list[str]:
    """The names of all pipelines, without importing them."""
    return sorted(module.name for module in iter_modules(__path__))


def find(name: str) -> Pipeline:
    """The pipeline of that name.

    Raises:
        RequestError: there is none, or its module cannot be imported.
    """
    if name not in names():
        raise RequestError(f"there is no pipeline '{name}' (there are: {', '.join(names())})")
    try:
        pipeline: Pipeline = import_module(f"{__name__}.{name}").PIPELINE
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise RequestError(f"the pipeline '{name}' cannot be loaded: {reason}") from error
    return pipeline
