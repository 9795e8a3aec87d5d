"""Where the embedded servers of a folder keep what they need, so that they and no others get there.

Postgres refuses to run as root: started by root it runs as another user, who has to reach its data
and its programs. What he cannot reach is not opened to him: it stands elsewhere.
"""

import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path

from market_spine.errors import StoreError

LOCK = "lock"  # held by the supervisor
LOG = "servers.log"
SUPERVISOR = "supervisor"  # its socket

OF_THE_SYSTEM = Path("/var/lib")  # not /var/tmp, which is swept of what is a month old
OF_SOCKETS = Path("/tmp")  # noqa: S108  (short, and the same for all, unlike TMPDIR; see check_own)


def make_home(folder: Path) -> Path:
    """The folder of data, log and lock: the given one, or for root one that others can reach.

    Raises:
        OSError: it cannot be made.
    """
    home = _home_of(folder) if os.geteuid() == 0 else folder
    with suppress(FileExistsError):
        home.mkdir(parents=True)
        if os.geteuid() == 0:
            home.chmod(0o755)  # whatever the umask: it is new, and nothing in it is open to others
        if home != folder:
            (home / "repo").symlink_to(folder.parent)  # says whose it is
    return home


def reachable(path: Path) -> bool:
    """Whether every user can get as far as this path, and enter or execute it."""
    return all(part.stat().st_mode & stat.S_IXOTH for part in (path, *path.parents))


def sockets_of(home: Path) -> Path:
    """The folder of the sockets: their paths may have a hundred bytes."""
    return OF_SOCKETS / f"market-spine-{_digest(home)}"


def check_own(folder: Path) -> None:
    """Refuse a folder of sockets that somebody else has put there.

    Raises:
        FileNotFoundError: there is none.
        StoreError: it is another user's, or others can write to it.
    """
    found = folder.lstat()
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    if not own or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StoreError(f"{folder} is not this user's: be the user whose it is, or remove it")


def _home_of(folder: Path) -> Path:
    elsewhere = OF_THE_SYSTEM / f"market-spine-{_digest(folder)}"
    begun = (folder / LOCK).exists()
    return folder if begun or (reachable(folder.parent) and not elsewhere.exists()) else elsewhere


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
