"""What a collection, and an alias of one, may be called."""

from sightline.errors import InvalidInput

_MAX_CHARACTERS = 200


def check_collection_name(name: str) -> None:
    """Raises `InvalidInput` for a name that is none."""
    if not name.strip() or name != name.strip() or not name.isprintable() or len(name) > _MAX_CHARACTERS:
        raise InvalidInput(
            f"{name!r} is no name for a collection: expected 1 to {_MAX_CHARACTERS} printable characters, no space around them"
        )
