"""A store that the commands have something to tell of."""

import re

import pytest

from tests.support import Spine
from tests.tape import trade


@pytest.fixture
def filled(spine: Spine) -> Spine:
    """Two trades of one day, and a letter."""
    spine.take(
        trade("T1", price="10.5", side="buy", venue="ALFA", conditions="T"),
        trade("T2", price="11", source_seq="2"),
        trade("BAD", price="abc"),
    )
    return spine


def columns(out: str) -> list[list[str]]:
    """A printed table, its cells apart."""
    return [re.split(r" {2,}", line.strip()) for line in out.splitlines() if line.strip()]
