"""Keys of the API: 256 random bits each, of which the store has the SHA-256 alone.

A name belongs to one live key. What was revoked stays in the store: events name it, and a store
that once had keys is never open again.
"""

import hmac
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Literal, get_args
from uuid import UUID

from sqlalchemy import Connection, select, update
from uuid_utils.compat import uuid7

from market_spine import database
from market_spine.errors import ConflictError, NotFoundError, RequestError
from market_spine.schema import api_keys

Scope = Literal["read", "submit", "operate"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
PREFIX = "spine_"  # by which whoever searches code and logs for secrets knows one
LONGEST_NAME = 100  # characters
MAKE_ONE = "spine keys make NAME --scope read"


@dataclass(frozen=True, kw_only=True)
class Key:
    """A key that has not been revoked."""

    id: UUID
    name: str
    scopes: Sequence[str]
    secret_hash: str
    created_at: datetime


def make(connection: Connection, name: str, scopes: Sequence[str]) -> str:
    """Make a key; returns its secret, which is told this once.

    Raises:
        RequestError: the name cannot be one, or a scope is missing or unknown.
        ConflictError: there is a key of this name.
    """
    if not name.strip() or not name.isprintable() or len(name) > LONGEST_NAME:
        raise RequestError(f"a key's name has 1 to {LONGEST_NAME} characters that can be printed")
    if not scopes or not set(scopes) <= set(SCOPES):
        raise RequestError(f"--scope: name one or more of {', '.join(SCOPES)}")
    secret = PREFIX + secrets.token_urlsafe(32)
    row = {
        "id": uuid7(),
        "name": name,
        "scopes": [scope for scope in SCOPES if scope in scopes],
        "secret_hash": _hash(secret),
        "created_at": datetime.now(UTC),
    }
    new = database.store().insert_new(api_keys).values(row).returning(api_keys.c.id)
    if connection.execute(new).first() is None:
        raise ConflictError(f"there is a key '{name}': revoke it first, or choose another name")
    return secret


def live(connection: Connection) -> list[Key]:
    """Every key that has not been revoked, by name."""
    columns = [column for column in api_keys.c if column.name != "revoked_at"]
    is_live = api_keys.c.revoked_at.is_(None)
    found = connection.execute(select(*columns).where(is_live).order_by(api_keys.c.name))
    return [Key(**row) for row in found.mappings()]


def is_unused(connection: Connection) -> bool:
    """Whether no key was ever made, revoked ones included."""
    return connection.execute(select(api_keys.c.id).limit(1)).first() is None


def revoke(connection: Connection, name: str) -> None:
    """Revoke a key for good.

    Raises:
        NotFoundError: there is no such key.
    """
    is_it = (api_keys.c.name == name) & api_keys.c.revoked_at.is_(None)
    revoked = connection.execute(
        update(api_keys).where(is_it).values(revoked_at=datetime.now(UTC)).returning(api_keys.c.id)
    )
    if not revoked.all():
        raise NotFoundError(f"there is no key '{name}' (spine keys list shows them)")


def matching(keys: Iterable[Key], secret: str) -> Key | None:
    """The key with this secret; it takes as long whichever it is."""
    given = _hash(secret)
    found = [key for key in keys if hmac.compare_digest(key.secret_hash, given)]
    return found[0] if found else None


def _hash(secret: str) -> str:
    return sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
