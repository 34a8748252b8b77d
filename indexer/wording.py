"""Counts as people write them."""


def counted(number: int, noun: str) -> str:
    """The number with thousands separated and the noun, which takes an `s` but for one: `1 item`, `1,200 items`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
