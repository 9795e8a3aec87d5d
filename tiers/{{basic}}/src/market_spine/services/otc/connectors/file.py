"""Delimited files: plain, gzip or zip, one or a whole folder.

Streams row by row. A row with too few or too many fields is passed on as it is; only what makes the
file unreadable from there on is an error.
"""

import csv
import gzip
import io
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from glob import glob, has_magic
from pathlib import Path
from stat import S_ISREG
from typing import IO, Any, cast

from market_spine.errors import SourceError
from market_spine.services.otc.connector import FetchRequest, Record, matching
from market_spine.services.otc.mapping import EXTRA, SourceMapping

SAMPLE = "data/otc_sample.csv"
LONGEST_FIELD = 16 * 2**20  # bytes; only an unclosed quote makes a longer one


def fetch(request: FetchRequest) -> Iterator[Record]:
    """Stream the rows of a file, of every file in a folder, or of those that a pattern matches."""
    for path in _files(request.path or SAMPLE):
        day = request.mapping.date_of_file(path.name)
        after, until = request.reported_after, request.reported_until
        if day and ((after and day <= after) or (until and day > until)):
            continue  # the name tells that no row of it is asked for
        yield from matching(_rows(path, request.mapping), request)


def _files(path: str) -> list[Path]:
    with _explained(path):
        if has_magic(path):
            found = sorted(Path(name) for name in glob(path))
        elif Path(path).is_dir():
            found = sorted(Path(path).iterdir())
        else:
            found = [Path(path)]
        files = [file for file in found if not file.name.startswith(".") and not file.is_dir()]
    if not files:
        raise SourceError(f"{path}: there is no file")
    return files


def _rows(path: Path, mapping: SourceMapping) -> Iterator[Record]:
    with _explained(path):
        if not S_ISREG(path.stat().st_mode):  # to open a pipe or a device may take for ever
            raise SourceError(f"{path}: not a regular file, and nothing else is read")
        with _opened(path) as members:
            for name, stream in members:
                yield from _parsed(path, name, stream, mapping)


@contextmanager
def _explained(path: str | Path) -> Iterator[None]:
    """Say in a line what is wrong with a file that cannot be read."""
    try:
        yield
    except FileNotFoundError:
        raise SourceError(f"{path}: there is no such file") from None
    except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as error:
        raise SourceError(f"{path}: the compressed file is damaged or cut off: {error}") from error
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: not a text file in UTF-8: {error.reason}") from error
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[Iterator[tuple[str, IO[bytes]]]]:
    """The members of a file, each with its name: more than one only in an archive."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            inside = [info for info in archive.infolist() if not info.is_dir()]
            alone = len(inside) == 1
            yield (
                (path.name if alone else f"{path.name}/{info.filename}", archive.open(info))
                for info in inside
            )
    elif path.suffix == ".gz":
        with gzip.open(path) as stream:
            yield iter([(path.name, cast(IO[bytes], stream))])
    else:
        with path.open("rb") as plain:
            yield iter([(path.name, plain)])


def _parsed(path: Path, name: str, stream: IO[bytes], mapping: SourceMapping) -> Iterator[Record]:
    csv.field_size_limit(LONGEST_FIELD)
    with io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
        yield from _records(path, name, csv.reader(text, delimiter=mapping.delimiter), mapping)


def _records(path: Path, name: str, lines: Any, mapping: SourceMapping) -> Iterator[Record]:
    try:
        header = list(mapping.columns) if mapping.columns else next(lines, None)
        if header is None:
            raise SourceError(f"{path}: the file is empty")
        repeated = [column for column, times in Counter(header).items() if times > 1]
        if repeated:
            raise SourceError(f"{path}: the header names '{repeated[0]}' more than once")
        lacking = mapping.needed_columns - set(header)
        if lacking:
            raise SourceError(
                f"{path}: the header lacks {', '.join(sorted(lacking))} "
                f"(it reads: {mapping.delimiter.join(header)[:200]}); "
                f"the mapping's delimiter is '{mapping.delimiter}'"
            )
        width = len(header)
        not_blank = filter(None, lines)
        for row_number, fields in enumerate(not_blank, start=1):
            payload = dict(zip(header, fields))  # noqa: B905  (a row may be too short or too long)
            if len(fields) > width:
                payload[EXTRA] = mapping.delimiter.join(fields[width:])
            yield Record(name, row_number, payload)
    except csv.Error as error:
        reason = f"line {lines.line_num}: {error}; is a quote left open before it?"
        raise SourceError(f"{path}: {reason}") from error
