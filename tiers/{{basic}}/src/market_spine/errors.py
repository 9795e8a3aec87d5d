"""The errors that a person is meant to read: what is wrong, where, and what to do.

Anything else that is raised is a defect.
"""


class SpineError(Exception):
    """Base of all of them; `exit_code` is what the command line ends with."""

    exit_code = 1


class RequestError(SpineError):
    """What was asked for cannot be: a name, a param, a date. Nothing was written."""

    exit_code = 2


class NotFoundError(RequestError):
    """There is no such execution, dead letter or source."""


class ConflictError(RequestError):
    """The request contradicts what the ledger already holds."""


class SourceError(SpineError):
    """The source of a capture cannot be read."""


class MetricError(SpineError):
    """A metric has no exact value that every store could hold."""


class StoreError(SpineError):
    """The store cannot be used: not there, locked, read-only, or not one of this version."""

    exit_code = 3


class CancelledError(Exception):
    """A pipeline met a request to cancel at its checkpoint."""


class SupersededError(Exception):
    """Somebody else moved the execution; whatever this run has written must not be kept."""
