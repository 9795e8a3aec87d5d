"""Log lines: one JSON object each, about an execution or not, with the same fields everywhere.

What runs until it is told to end says what it does, and a command only what is not as it should be.
In a terminal, lines are for people, and are the message alone. None has the user or the password of
a URL, whichever library quotes it.
"""

import logging
import re
import sys
import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any

from market_spine import observability

if TYPE_CHECKING:
    from structlog.stdlib import ProcessorFormatter
    from structlog.typing import EventDict

SERVICES = {"api", "worker", "relay", "beat"}  # the commands that are processes of their own

USER_OF_URL = re.compile(r'(?<=://)(?:[^/\s"\\]|\\[^n])*@')  # in text, and in a string of JSON

log = logging.getLogger(__name__)


def configure(*, for_people: bool | None = None) -> None:
    """Have every logger of this process write to stderr, unless that is set up already.

    Args:
        for_people: None: if it is a terminal.
    """
    if not logging.root.handlers:
        _begin(
            for_people=sys.stderr.isatty() if for_people is None else for_people,
            is_service=bool({*sys.argv[1:2]} & SERVICES),
        )


def take_over() -> None:
    """Do so in a process that works for a service, and that somebody else's program has begun."""
    for logger in (logging.root, *map(logging.getLogger, [*logging.root.manager.loggerDict])):
        for handler in [*logger.handlers]:
            # Others send what is said elsewhere, as Prefect does to its server.
            if getattr(handler, "stream", None) in (sys.stdout, sys.stderr):
                logger.removeHandler(handler)
                logger.propagate = True
    _begin(for_people=sys.stderr.isatty(), is_service=True)


def _begin(*, for_people: bool, is_service: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(ForPeople("%(message)s") if for_people else JsonLines())
    logging.root.addHandler(handler)
    logging.root.setLevel(logging.WARNING)
    if for_people:
        return
    if is_service:
        logging.getLogger("market_spine").setLevel(logging.INFO)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


class ForPeople(logging.Formatter):
    """Formats for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """A line, and the traceback of its error."""
        return USER_OF_URL.sub("", super().format(record))


class JsonLines(logging.Formatter):
    """Formats with structlog, which is imported for the first line: most commands have none."""

    @cached_property
    def _structlog(self) -> "ProcessorFormatter":
        import structlog

        return structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_logger_name,
                structlog.stdlib.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                _add_subject,
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(serializer=_dumps),
            ],
        )

    def format(self, record: logging.LogRecord) -> str:
        """A line, without its end."""
        return USER_OF_URL.sub("", self._structlog.format(record))


def _add_subject(_logger: object, _method: str, line: "EventDict") -> "EventDict":
    subject = observability.execution.get()
    line["execution_id"] = str(subject.id) if subject else None
    line["pipeline"] = subject.pipeline if subject else None
    line["lane"] = subject.lane if subject else None
    line["trace_id"] = observability.trace_id()
    return line


def _dumps(line: Any, **_options: object) -> str:
    import orjson

    return orjson.dumps(line, default=str).decode()


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    log.critical("the process ends: %s", kind.__name__, exc_info=(kind, error, trace))


def _log_uncaught_in_thread(found: threading.ExceptHookArgs) -> None:
    if found.exc_value is not None:
        told = (found.exc_type, found.exc_value, found.exc_traceback)
        name = found.thread.name if found.thread else "a thread"
        log.error("%s ends: %s", name, found.exc_type.__name__, exc_info=told)
