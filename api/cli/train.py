"""`sightline train`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from api.cli.options import DeviceOption, work_folder

if TYPE_CHECKING:
    from sightline.training.backbones import StartOptions
    from sightline.training.options import FitOptions
    from sightline.training.recipe import Recipe

Options = TypeVar("Options", "StartOptions", "FitOptions", "Recipe")
PoolingName = Literal["mean", "first", "last"]
PresetName = Literal["sightline-mini"]


def train(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help="Pictures with captions: any source of `index`, or a folder of shards.")
    ],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the checkpoint goes; `--encoder FOLDER` takes it.")],
    preset: Annotated[PresetName | None, typer.Option("--preset", help="Options that made a model which is shipped.")] = None,
    validate: Annotated[
        list[str] | None,
        typer.Option("--validate", metavar="SOURCE", help="Pictures to measure with.", show_default="a fifth of every source"),
    ] = None,
    breadth: Annotated[
        list[str] | None, typer.Option("--breadth", metavar="SOURCE", help="Pictures of other subjects, of which some join each epoch.")
    ] = None,
    image_backbone: Annotated[
        str | None, typer.Option(metavar="NAME", help="A timm model, or torchvision/NAME.", show_default="tf_efficientnet_lite0")
    ] = None,
    image_weights: Annotated[Path | None, typer.Option(metavar="FILE", help="A state dict of the image backbone.")] = None,
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="Start the image backbone from random weights.")] = False,
    text_backbone: Annotated[
        str | None, typer.Option(metavar="NAME", help="A Hugging Face text model: id or folder.", show_default="all-MiniLM-L6-v2")
    ] = None,
    text_pooling: Annotated[PoolingName | None, typer.Option(help="How hidden states become one.", show_default="mean")] = None,
    max_text_tokens: Annotated[int | None, typer.Option(min=4, help="Tokens that are read of a text at most.", show_default="64")] = None,
    embedding_dim: Annotated[int | None, typer.Option(min=8, max=4096, help="Width of the shared space.", show_default="512")] = None,
    image_side: Annotated[int | None, typer.Option(min=32, max=1024, help="Pixels a side.", show_default="224")] = None,
    frozen_stages: Annotated[
        int | None, typer.Option(min=0, help="Image stages that stay as they are; their maps are cached.", show_default="0")
    ] = None,
    pool_stages: Annotated[
        bool, typer.Option("--pool-stages", help="Read every image stage that is not frozen, not the last one alone; costs nothing.")
    ] = False,
    keep_classifier: Annotated[
        bool, typer.Option("--keep-classifier", help="Carry over what the image backbone's own classifier knows, for one-word queries.")
    ] = False,
    views: Annotated[int | None, typer.Option(min=1, max=64, help="Augmented views kept of each picture.", show_default="5")] = None,
    alignment_weight: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="Weight of a word-to-patch loss, for tokens that a fusion encoder will read.", show_default="0"),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=0, help="Epochs of everything that isn't frozen.", show_default="12")] = None,
    projection_epochs: Annotated[int | None, typer.Option(min=0, help="Epochs of the projections alone.", show_default="25")] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Pictures a step.", show_default="256")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Decides every draw.", show_default="0")] = None,
    work: Annotated[
        Path | None, typer.Option("--work", metavar="FOLDER", help="Cached maps and the run's state.", show_default="OUT.work")
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Fit an encoder to pictures and captions of your own; run it again after a stop and it goes on."""
    from api.cli.train_progress import new_training_listener
    from api.training_sources import training_sources
    from sightline.encoders.device import choose_device
    from sightline.settings import load_settings
    from sightline.training.backbones import credits_of
    from sightline.training.recipe import Recipe, mini_recipe, train_dual_encoder

    settings = load_settings(device=device)
    recipe = mini_recipe() if preset == "sightline-mini" else Recipe()
    library, _, name = (image_backbone or "").rpartition("/")
    start = _with_given(
        recipe.start,
        image_backbone=name or None,
        image_library="torchvision" if library == "torchvision" else None,
        image_weights=image_weights,
        is_image_pretrained=False if from_scratch else None,
        text_backbone=text_backbone,
        text_pooling=text_pooling,
        max_text_tokens=max_text_tokens,
        embedding_dim=embedding_dim,
        image_side=image_side,
        num_frozen_stages=frozen_stages,
        pools_stages=pool_stages or None,
        has_kept_branch=keep_classifier or None,
        seed=seed,
    )
    fit = _with_given(
        recipe.fit,
        alignment_weight=alignment_weight,
        epochs=epochs,
        projection_epochs=projection_epochs,
        batch_size=batch_size,
        seed=seed,
    )
    recipe = _with_given(replace(recipe, start=start, fit=fit), num_views=views, has_class_names=keep_classifier or None)
    found = training_sources(sources, breadth=breadth or (), validation=validate or ())
    try:
        with new_training_listener() as listener:
            outcome = train_dual_encoder(
                found,
                recipe,
                out=out,
                work=work_folder(out, work),
                device=choose_device(settings.device),
                max_pixels=settings.max_pixels,
                owed_to=credits_of(recipe.start),
                listener=listener,
            )
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt("stopped; the run's state is kept, the same command goes on from it") from interrupt
    for figures in outcome.figures:
        typer.echo(str(figures))
    typer.echo(f"{outcome.folder}: trained; use it with --encoder {outcome.folder}")


def _with_given(values: Options, **given: Any) -> Options:
    """`values` with those fields replaced that were given on the command line."""
    return replace(values, **{name: value for name, value in given.items() if value is not None})
