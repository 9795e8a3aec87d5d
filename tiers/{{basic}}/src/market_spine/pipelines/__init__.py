"""The registry: a pipeline is a module in this folder, named like the pipeline, with a `PIPELINE`.

A module imports what does the work inside its function, so that whoever only submits starts without
it; one that cannot be imported is refused alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from market_spine.context import Context
from market_spine.errors import RequestError


class Params(BaseModel):
    """Base of every pipeline's params: nothing unknown is accepted."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DateRange(Params):
    """New York dates, both included; an unset one leaves its side open."""

    start_date: date | None = None
    end_date: date | None = None

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
