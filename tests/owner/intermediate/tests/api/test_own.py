"""The desk's own endpoint."""

from tests.api.serving import Api


def test_own_notes(api: Api) -> None:
    assert api.get("/own/notes") == []
