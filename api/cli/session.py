"""A store opened for one command, from the options before and after the command's name."""

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
