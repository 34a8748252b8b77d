"""Keys for tests."""

from collections.abc import Iterable

from api import Sightline
from sightline.storage.keys import NewKey
from sightline.types import Scope


def new_key(sightline: Sightline, *scopes: Scope, collections: Iterable[str] | None = None) -> str:
    """The secret of a new key."""
    key = NewKey("test", frozenset(scopes), None if collections is None else frozenset(collections))
    return sightline.store.keys.create(key)[0]


def bearer(secret: str) -> dict[str, str]:
    """The header that sends it."""
    return {"Authorization": f"Bearer {secret}"}
