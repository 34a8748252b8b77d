"""The options that several commands share, so that they read alike everywhere; no module here may import anything heavy."""

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_COLLECTION = "default"
"""As in `sightline.settings`, whose import takes longer than all of `--help`; a test holds the two equal."""

StoreOption = Annotated[
    Path | None,
    typer.Option("--store", metavar="FOLDER", help="Folder of the store.", show_default="$SIGHTLINE_STORE or ~/.local/share/sightline"),
]
CollectionOption = Annotated[str, typer.Option("--collection", "-c", metavar="NAME", help="Collection.")]
AnyCollectionOption = Annotated[
    str | None, typer.Option("--collection", "-c", metavar="NAME", help="Only this collection.", show_default="all")
]
EncoderOption = Annotated[
    str | None,
    typer.Option(
        "--encoder",
        metavar="SPEC",
        help="sightline-mini, a Hugging Face id or a folder.",
        show_default="the collection's own; $SIGHTLINE_ENCODER for a new one",
    ),
]
FusionOption = Annotated[
    str | None,
    typer.Option(
        "--fusion",
        metavar="SPEC",
        help="The fusion encoder of the second look: a folder, or BLIP by hub id.",
        show_default="$SIGHTLINE_FUSION or the encoder's own",
    ),
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda or mps.", show_default="$SIGHTLINE_DEVICE or auto")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.")]


def work_folder(out: Path, given: Path | None) -> Path:
    """Where a training run keeps its caches and its state: what was given, or a folder beside the one that the result goes to."""
    from sightline.errors import InvalidTraining

    if not out.name:
        raise InvalidTraining(f"--out is {str(out)!r}, which is no folder of its own; name one, such as models/mine")
    return given or out.with_name(f"{out.name}.work")
