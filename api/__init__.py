"""The ways in: the Python API (`from api import open_store`) and the command line (`api.cli`).

`open_store` and `Sightline` are loaded when they are asked for, so that the command line, which lives in this package, can print
its help without importing what only searching needs.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from api.library import Sightline, open_store

__all__ = ["Sightline", "open_store"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from api import library

        return getattr(library, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
