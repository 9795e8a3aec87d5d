"""The desk's own endpoint asks for a key, like all others."""

from pathlib import Path

from tests.api.test_keys import EVERYWHERE, key, over_new_database


def test_own_notes_are_shown_to_who_may_read(tmp_path: Path) -> None:
    with over_new_database(tmp_path, **EVERYWHERE) as api:
        assert api.http.get("/own/notes").status_code == 401
        assert api.http.get("/own/notes", headers=key(api, "submit")).status_code == 403
        assert api.http.get("/own/notes", headers=key(api, "read")).status_code == 200
