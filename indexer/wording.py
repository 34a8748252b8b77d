"""Counts as people write them."""


def counted(number: int, noun: str, *, plural: str | None = None) -> str:
    """The number with thousands separated and the noun, which but for one is `plural`, or takes an `s`: `1 item`, `1,200 items`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
