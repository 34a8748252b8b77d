"""The service's keys: made, listed, revoked, and recognised.

A key is 256 random bits, so that its SHA-256 needs neither salt nor a slow hash: nobody tries them all. It is shown once, and what is
stored cannot be turned back into it.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, insert, or_, select, update

from sightline.errors import InvalidInput, KeyNotFound
from sightline.storage.database import Database
from sightline.storage.names import check_collection_name
from sightline.storage.tables import ApiKeyRow
from sightline.types import KeyId, Scope

PREFIX = "sl_"
"""Tells a key from other secrets, for people and for what looks for leaked ones."""

_KEY_BYTES = 32
_MAX_NAME_CHARACTERS = 100
TOUCH_EVERY = timedelta(minutes=1)
"""`last_used_at` is for people; a write for each request would cost more than the search."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key, without what opens anything."""

    key_id: KeyId
    name: str
    scopes: frozenset[Scope]
    collections: frozenset[str] | None  # None: all
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None  # to the minute
    digest: str = field(repr=False)  # SHA-256 of the key, hex

    def counts(self, *, at: datetime | None = None) -> bool:
        """Whether it is neither expired nor revoked, now or at an instant."""
        at = at or datetime.now(UTC)
        return self.revoked_at is None and (self.expires_at is None or at < self.expires_at)


@dataclass(frozen=True, slots=True)
class NewKey:
    """What a key is to be."""

    name: str
    scopes: frozenset[Scope]
    collections: frozenset[str] | None = None  # None: all
    expires_at: datetime | None = None


class Keys:
    """All keys at one instant."""

    def __init__(self, records: Iterable[KeyRecord]) -> None:
        self._record_by_digest: Mapping[str, KeyRecord] = {record.digest: record for record in records}

    def __len__(self) -> int:
        """How many, expired and revoked ones included."""
        return len(self._record_by_digest)

    def has_valid(self) -> bool:
        """Whether one of them opens anything now."""
        return any(record.counts() for record in self._record_by_digest.values())

    def find(self, secret: str) -> KeyRecord | None:
        """The record of a key, be it expired or revoked; None for what is no key.

        What is looked up is a digest, of which a caller cannot choose the beginning; it is compared in constant time all the same.
        """
        digest = _digest(secret)
        record = self._record_by_digest.get(digest)
        return record if record is not None and hmac.compare_digest(record.digest, digest) else None


class KeyRing:
    """The keys of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, key: NewKey) -> tuple[str, KeyRecord]:
        """A new key: its secret, which nobody can be shown again, and its record.

        Raises `InvalidInput` for a name that is none, a key without scopes or collections, and an instant that has passed.
        """
        _check(key)
        secret = PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(_KEY_BYTES)).rstrip(b"=").decode()
        values = {"name": key.name, "digest": _digest(secret), "scopes": _as_json(key.scopes, key.collections)}
        statement = insert(ApiKeyRow).values(**values, created_at=datetime.now(UTC), expires_at=key.expires_at)
        with self._database.writing() as connection:
            key_id = connection.execute(statement.returning(ApiKeyRow.key_id)).scalar_one()
        return secret, self.get(KeyId(key_id))

    def list(self) -> list[KeyRecord]:
        """All keys, the oldest first; expired and revoked ones are among them."""
        with self._database.reading() as connection:
            return [_record(row) for row in connection.execute(_KEY.order_by(ApiKeyRow.key_id))]

    def keys(self) -> Keys:
        """All keys as they are now, to recognise them by."""
        return Keys(self.list())

    def get(self, key_id: KeyId) -> KeyRecord:
        """Raises `KeyNotFound`."""
        with self._database.reading() as connection:
            row = connection.execute(_KEY.where(ApiKeyRow.key_id == key_id)).first()
        if row is None:
            raise _not_found(key_id)
        return _record(row)

    def revoke(self, key_id: KeyId) -> KeyRecord:
        """Have a key open nothing any more, for good; one that was revoked before keeps its date. Raises `KeyNotFound`."""
        statement = update(ApiKeyRow).where(ApiKeyRow.key_id == key_id, ApiKeyRow.revoked_at.is_(None))
        with self._database.writing() as connection:
            connection.execute(statement.values(revoked_at=datetime.now(UTC)))
        return self.get(key_id)

    def touch(self, key_id: KeyId) -> None:
        """Note that a key was used, unless that was noted within the last minute, by whatever process."""
        now = datetime.now(UTC)
        is_due = or_(ApiKeyRow.last_used_at.is_(None), ApiKeyRow.last_used_at <= now - TOUCH_EVERY)
        with self._database.writing() as connection:
            connection.execute(update(ApiKeyRow).where(ApiKeyRow.key_id == key_id, is_due).values(last_used_at=now))


def rename_in_keys(connection: Connection, *, name: str, new_name: str) -> None:
    """Have the keys of a collection that is renamed follow it: another one that gets the name later must not be theirs."""
    for row in connection.execute(_KEY):
        record = _record(row)
        if record.collections is not None and name in record.collections:
            scopes = _as_json(record.scopes, (record.collections - {name}) | {new_name})
            connection.execute(update(ApiKeyRow).where(ApiKeyRow.key_id == record.key_id).values(scopes=scopes))


_KEY = select(
    ApiKeyRow.key_id,
    ApiKeyRow.name,
    ApiKeyRow.scopes,
    ApiKeyRow.created_at,
    ApiKeyRow.expires_at,
    ApiKeyRow.revoked_at,
    ApiKeyRow.last_used_at,
    ApiKeyRow.digest,
)


def _record(row: Sequence[object]) -> KeyRecord:
    key_id, name, granted, *rest = row
    collections = granted["collections"]  # type: ignore[index]  # JSON that `_as_json` wrote
    scopes = frozenset(Scope(scope) for scope in granted["scopes"])  # type: ignore[index]
    return KeyRecord(KeyId(key_id), name, scopes, None if collections is None else frozenset(collections), *rest)  # type: ignore[arg-type]


def _as_json(scopes: frozenset[Scope], collections: frozenset[str] | None) -> dict[str, list[str] | None]:
    return {"scopes": sorted(scopes), "collections": None if collections is None else sorted(collections)}


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _check(key: NewKey) -> None:
    if not key.name.strip() or not key.name.isprintable() or len(key.name) > _MAX_NAME_CHARACTERS:
        raise InvalidInput(f"{key.name!r} is no name for a key: expected 1 to {_MAX_NAME_CHARACTERS} printable characters")
    if not key.scopes:
        raise InvalidInput(f"the key {key.name!r} has no scope: expected at least one of {', '.join(Scope)}")
    if key.collections is not None and not key.collections:
        raise InvalidInput(f"the key {key.name!r} is for no collection: name at least one, or leave them away for all")
    for collection in key.collections or ():
        check_collection_name(collection)
    if key.expires_at is not None and key.expires_at <= datetime.now(UTC):
        raise InvalidInput(f"the key {key.name!r} would have expired on {key.expires_at:%Y-%m-%d %H:%M}: expected an instant to come")


def _not_found(key_id: KeyId) -> KeyNotFound:
    return KeyNotFound(f"there is no key {key_id}; `sightline keys list` lists them")
