"""A store opened for one command, from the options before and after the command's name."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from api.library import Sightline


@dataclass(frozen=True, slots=True)
class GlobalOptions:
    """What was written before the command's name."""

    store: Path | None = None


def open_session(
    context: typer.Context,
    *,
    store: Path | None,
    encoder: str | None = None,
    fusion: str | None = None,
    device: str | None = None,
    create: bool = False,
) -> "Sightline":
    """The store that the options, or else the settings, name; `create` makes it where there is none.

    Raises what `api.open_store` and `load_settings` raise.
    """
    from api.library import open_store
    from sightline.settings import load_settings

    given = context.find_object(GlobalOptions) or GlobalOptions()
    return open_store(settings=load_settings(store=store or given.store, fusion=fusion, device=device), encoder=encoder, create=create)


@contextmanager
def collector_paused() -> Iterator[None]:
    """For a command that answers one question and ends: no cycles are looked for meanwhile.

    What torch brings on import is half a million objects, which Python walks again and again as they come, for nothing: most of a second.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
