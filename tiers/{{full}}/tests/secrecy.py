"""Every secret of the tests has a mark, by which it is found in whatever their processes log."""

import logging
import re
from pathlib import Path

PASSWORD = "hush-database"  # in the URL of every database; an embedded server takes any
MARKED = re.compile(r"hush-\w+|spine_[\w-]{43}")  # a secret of the tests; a key of the API

told: list[str] = []  # the lines that give a secret away


def heed(text: str, where: object) -> None:
    """Look through what a process has logged."""
    told.extend(f"{where}: {line}" for line in text.splitlines() if MARKED.search(line))


def heed_files(folder: Path) -> None:
    """Look through all that the processes of a folder have logged."""
    for file in sorted(folder.rglob("*")):
        if file.suffix in (".log", ".out") and file.is_file():
            heed(file.read_text(errors="replace"), file)


class Ears(logging.Handler):
    """Hears what this process logs."""

    def emit(self, record: logging.LogRecord) -> None:
        """Look through a line."""
        heed(self.format(record), "these tests")
