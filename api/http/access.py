"""Who asks: the actor behind a key, from a list of keys in memory that is a second old at the most.

A search must not cost SQL to find out who asks, and a key that is revoked, or an alias that is turned, must not work on for long: a second
is what readers of collections have, too. What this process changes counts at once.
"""

import functools
import ipaddress
import logging
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from sightline.errors import DatabaseUnavailable, InvalidSetting, NotAuthenticated, NotPermitted, SightlineError
from sightline.storage.keys import TOUCH_EVERY, Keys
from sightline.storage.store import Store
from sightline.types import KeyId, Scope

logger = logging.getLogger(__name__)

MAX_AGE_S = 1.0
_STANDS_FOR = {
    Scope.SEARCH: frozenset({Scope.SEARCH}),
    Scope.WRITE: frozenset({Scope.WRITE, Scope.SEARCH}),
    Scope.ADMIN: frozenset(Scope),
}


@functools.lru_cache(maxsize=1024)
def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there; false for a name that might be anything."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_keys(store: Store, *, host: str) -> None:
    """Raises `InvalidSetting` where others than this machine would be served without a key; without keys, says so on standard error."""
    keys = store.keys.keys()
    if not is_loopback(host) and not keys.has_valid():
        raise InvalidSetting(
            f"there is no valid key, and {host} can be reached from other machines: make a key with "
            "`sightline keys create NAME --scope search`, or listen on 127.0.0.1"
        )
    if not len(keys):
        sys.stderr.write(
            "sightline: there are no keys, so every program on this machine may search, index and administer; "
            "`sightline keys create NAME --scope admin` ends that\n"
        )


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks, and what they may."""

    name: str
    key_id: KeyId | None  # None: nobody was asked for a key
    scopes: frozenset[Scope]
    collections: frozenset[str] | None  # None: all
    collection_by_alias: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __str__(self) -> str:
        """As the audit list names them."""
        return self.name if self.key_id is None else f"{self.name} (key {self.key_id})"

    def may_use(self, collection: str) -> bool:
        """Whether a collection, by its name or an alias, is one of theirs; it need not exist."""
        return self.collections is None or self.collection_by_alias.get(collection, collection) in self.collections

    def require_scope(self, scope: Scope) -> None:
        """Raises `NotPermitted`."""
        if not any(scope in _STANDS_FOR[own] for own in self.scopes):
            raise NotPermitted(f"the key {self.name!r} may {' and '.join(sorted(self.scopes))}; this takes a key with the scope {scope}")

    def require_collection(self, collection: str) -> None:
        """Raises `NotPermitted`, whether the collection exists or not: who may not see it is not told."""
        if not self.may_use(collection):
            raise NotPermitted(f"the key {self.name!r} is not for the collection {collection!r}")

    def require_all_collections(self) -> None:
        """Raises `NotPermitted` for a key of some collections: what is not about one of them is not theirs to see or change."""
        if self.collections is not None:
            raise NotPermitted(f"the key {self.name!r} is for some collections only; this takes one for all")


ANYONE = Actor("anyone on this machine", None, frozenset({Scope.ADMIN}), None)
"""Who asks where there are no keys and only this machine can."""


@dataclass(frozen=True, slots=True)
class _Grants:
    """Keys and aliases as they were."""

    keys: Keys
    collection_by_alias: Mapping[str, str]
    read_at_s: float


@dataclass(frozen=True, slots=True)
class _Failure:
    """That they could not be read."""

    error: DatabaseUnavailable
    at_s: float


class AccessList:
    """Recognises keys. Thread-safe."""

    def __init__(self, store: Store, *, host: str) -> None:
        self._store = store
        self._is_on_loopback = is_loopback(host)
        self._lock = threading.Lock()
        self._grants: _Grants | None = None
        self._failure: _Failure | None = None
        self._touched_at_s: dict[KeyId, float] = {}

    def forget(self) -> None:
        """Read keys and aliases anew at the next request: they were changed."""
        self._grants = None

    def is_at_hand(self) -> bool:
        """Whether `actor` will answer without asking the database."""
        return self._fresh() is not None

    def actor(self, secret: str | None) -> Actor:
        """Who has this key, or no key. Raises `NotAuthenticated`, and `DatabaseUnavailable` where that had to be asked.

        Without any key in the store, and be it a revoked one, this machine is open, and a key that is given all the same is not looked at:
        some clients always send one.
        """
        grants = self._fresh() or self._read()
        if not len(grants.keys) and self._is_on_loopback:
            return ANYONE
        if secret is None:
            raise NotAuthenticated("this takes a key: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`")
        record = grants.keys.find(secret)
        if record is None:
            raise NotAuthenticated("there is no such key; was it copied as a whole?")
        if not record.counts():
            end = "revoked" if record.revoked_at is not None else "valid for a limited time, which is over"
            raise NotAuthenticated(f"the key {record.name!r} was {end}; ask for a new one")
        return Actor(record.name, record.key_id, record.scopes, record.collections, grants.collection_by_alias)

    def is_touch_due(self, key_id: KeyId) -> bool:
        """Whether the use of a key is to be noted now; true once a minute, for one caller."""
        now_s = time.monotonic()
        if now_s - self._touched_at_s.get(key_id, -TOUCH_EVERY.total_seconds()) < TOUCH_EVERY.total_seconds():
            return False
        self._touched_at_s[key_id] = now_s
        return True

    def touch(self, key_id: KeyId) -> None:
        """Note that a key was used; a store that cannot be written is no reason to refuse a search."""
        try:
            self._store.keys.touch(key_id)
        except SightlineError as error:
            logger.warning("the use of key %d could not be noted: %s", key_id, error)

    def _fresh(self) -> _Grants | None:
        grants = self._grants
        return grants if grants is not None and time.monotonic() - grants.read_at_s < MAX_AGE_S else None

    def _read(self) -> _Grants:
        with self._lock:
            grants = self._fresh()
            if grants is None:
                self._fail_as_just_now()
                read_at_s = time.monotonic()
                try:
                    grants = _Grants(self._store.keys.keys(), self._store.aliases.collection_by_alias(), read_at_s)
                except DatabaseUnavailable as error:
                    self._failure = _Failure(error, time.monotonic())
                    raise
                self._grants = grants
            return grants

    def _fail_as_just_now(self) -> None:
        """A database that is away may take ten seconds to say so: those who waited meanwhile must not ask it one after the other."""
        failure = self._failure
        if failure is not None and time.monotonic() - failure.at_s < MAX_AGE_S:
            raise DatabaseUnavailable(str(failure.error)) from failure.error
