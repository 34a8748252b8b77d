"""What a body, or a picture in it, is declared to be, and whether that is taken.

What is declared as something else than a picture is refused, whatever is inside: who says so means something that is not searched for here.
What is declared as a picture, or as nothing in particular, is looked at; which format it has, its bytes decide.
"""

from sightline.errors import UnsupportedMediaType

_NOTHING_IN_PARTICULAR = frozenset({"", "application/octet-stream", "binary/octet-stream"})


def media_type_of(header: str | None) -> str:
    """`image/png` of `Image/PNG; name=dog.png`; empty where nothing is declared."""
    return (header or "").partition(";")[0].strip().lower()


def is_json(media_type: str) -> bool:
    """Whether a body of this type is parsed as JSON."""
    return media_type == "application/json" or (media_type.startswith("application/") and media_type.endswith("+json"))


def may_be_picture(media_type: str) -> bool:
    """Whether what is declared so is looked at as a picture."""
    return media_type.startswith("image/") or media_type in _NOTHING_IN_PARTICULAR


def require_picture_type(header: str | None, *, of: str) -> None:
    """Raises `UnsupportedMediaType` where `of` is declared as something that is no picture."""
    media_type = media_type_of(header)
    if not may_be_picture(media_type):
        expected = "a type that begins with image/, application/octet-stream, or none"
        raise UnsupportedMediaType(f"{of} is declared as {media_type[:80]!r}, which is no picture; expected {expected}")
