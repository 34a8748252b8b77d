"""The ways in: the Python API (`from api import open_store`) and the command line (`api.cli`).

What is exported is loaded when it is asked for, so that the command line, which lives in this package, can print its help without
importing what only searching needs.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from api.library import Sightline, open_store
    from api.matching import match_picture

__all__ = ["Sightline", "match_picture", "open_store"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from importlib import import_module

        return getattr(import_module("api.matching" if name == "match_picture" else "api.library"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
