"""The API in a process of its own, over a database of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import postgres
from tests.api.serving import Api, serving


@contextmanager
def over_new_database(folder: Path) -> Iterator[Api]:
    url = postgres.new_database()
    try:
        with serving(folder, url) as api:
            yield api
    finally:
        postgres.drop_database(url)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    """The API over an empty database, which this test has alone."""
    with over_new_database(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """The API over a database that the tests of a module share."""
    with over_new_database(tmp_path_factory.mktemp("shared")) as found:
        yield found
