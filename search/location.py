"""Where an item is, from what the catalogue keeps of it."""

from pathlib import Path


def item_location(source: str, key: str) -> str:
    """A path or a URL that opens the item: `key` itself where it is absolute, else below `source` (a folder or a URL)."""
    if "://" in key or Path(key).is_absolute():
        return key
    if "://" in source:
        return f"{source.rstrip('/')}/{key}"
    return str(Path(source) / key)
