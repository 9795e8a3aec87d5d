"""The file of a pipeline that a test adds."""

from collections.abc import Iterable

HEAD = """
from typing import Any
from market_spine import ledger
from market_spine.context import Context
from market_spine.errors import SourceError
from market_spine.pipelines import Params, Pipeline

class WorkParams(Params):
    n: int = 0

def run(context: Context, params: WorkParams) -> dict[str, Any]:
"""
END = """
PIPELINE = Pipeline(name="{name}", description="A test's.", params=WorkParams, run=run)
"""


def pipeline_text(name: str, body: Iterable[str]) -> str:
    """A module with a pipeline whose function has these lines."""
    return HEAD + "\n".join(f"    {line}" for line in body) + END.format(name=name)
