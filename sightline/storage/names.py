"""What a collection, and an alias of one, may be called, and what may be said of it and of its hubness bias."""

from sightline.errors import InvalidInput

_MAX_CHARACTERS = 200
_UNREADABLE = "\ufffd"
"""What stands for bytes that are no text: a name with it would be that of all names that hold such bytes."""

MAX_DESCRIPTION_CHARACTERS = 500
"""A sentence or two: lists show it whole."""


def check_collection_name(name: str) -> None:
    """Raises `InvalidInput` for a name that is none."""
    is_text = name == name.strip() and name.isprintable() and _UNREADABLE not in name and 0 < len(name) <= _MAX_CHARACTERS
    if not is_text or name in (".", ".."):
        raise InvalidInput(
            f"{name[: _MAX_CHARACTERS + 1]!r} is no name for a collection: expected 1 to {_MAX_CHARACTERS} printable characters, no space "
            "around them, and not . or .., which an address cannot hold"
        )


def check_description(description: str) -> None:
    """Raises `InvalidInput` for what is no line of text; an empty one says nothing, and is fine."""
    if description != description.strip() or not description.isprintable() or len(description) > MAX_DESCRIPTION_CHARACTERS:
        expected = f"at most {MAX_DESCRIPTION_CHARACTERS} printable characters in one line, no space around them"
        raise InvalidInput(f"{description[:80]!r} is no description of a collection: expected {expected}")


def check_strength(strength: float) -> None:
    """Raises `InvalidInput` for what is no share of the hubness bias."""
    if not 0 <= strength <= 1:
        raise InvalidInput(f"{strength!r} is no share of the hubness bias: expected a number from 0, which takes nothing off, to 1")
