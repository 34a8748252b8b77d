"""`sightline train fusion`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from api.cli.options import DeviceOption, work_folder


def train_fusion(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help="Pictures with captions: any source of `index`, or a folder of shards.")
    ],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the fusion encoder goes.")],
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            metavar="SPEC",
            help="What it is to read the tokens of: sightline-mini, a Hugging Face id or a folder.",
            show_default="sightline-mini, or $SIGHTLINE_ENCODER",
        ),
    ] = None,
    validate: Annotated[
        list[str] | None,
        typer.Option("--validate", metavar="SOURCE", help="Pictures to measure with.", show_default="a fifth of every source"),
    ] = None,
    layers: Annotated[int | None, typer.Option(min=0, max=12, help="Layers of cross-attention; 0: none.", show_default="2")] = None,
    views: Annotated[int | None, typer.Option(min=1, max=64, help="Augmented views kept of each picture.", show_default="6")] = None,
    alignment_epochs: Annotated[int | None, typer.Option(min=0, help="Epochs of word-to-patch alignment alone.", show_default="10")] = None,
    epochs: Annotated[int | None, typer.Option(min=0, help="Epochs of everything.", show_default="4")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=2, help="Pictures in a step, each of which meets every text of it.", show_default="64")
    ] = None,
    unfreeze: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="EPOCHS",
            help="First tune the encoder itself, one that `sightline train` wrote, for so many epochs; it goes into OUT as well.",
            show_default="the encoder stays as it is",
        ),
    ] = None,
    queue: Annotated[
        int | None, typer.Option(min=0, help="Pairs of the steps before that the alignment has to differ from as well.", show_default="0")
    ] = None,
    second_backbone: Annotated[
        str | None,
        typer.Option(
            metavar="ENCODER",
            help="An encoder that `sightline train` wrote, or a timm model, whose image backbone the second look reads as well.",
            show_default="none",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Decides every draw.", show_default="0")] = None,
    work: Annotated[
        Path | None, typer.Option("--work", metavar="FOLDER", help="Cached tokens and the run's state.", show_default="OUT.work")
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Fit a fusion encoder on top of an encoder: what looks at candidates again. Run it again after a stop and it goes on."""
    from api.cli.fusion_progress import new_fusion_listener
    from api.cli.train_progress import new_training_listener
    from api.training_sources import training_sources
    from sightline.encoders.device import choose_device
    from sightline.encoders.load import checkpoint_folder, load_encoder
    from sightline.settings import load_settings
    from sightline.training.alignment_head import load_alignment
    from sightline.training.fusion_recipe import FusionRecipe, train_fusion
    from sightline.training.unfrozen import tunable_folder, tune_encoder, unfrozen_recipe

    settings = load_settings(device=device)
    recipe = FusionRecipe()
    fit = {
        "alignment_epochs": alignment_epochs,
        "fusion_epochs": epochs,
        "fusion_batch_size": batch_size,
        "queue_size": queue,
        "seed": seed,
    }
    recipe = replace(recipe, fit=replace(recipe.fit, **{name: value for name, value in fit.items() if value is not None}))
    recipe = replace(recipe, num_layers=recipe.num_layers if layers is None else layers, num_views=views or recipe.num_views)
    recipe = replace(recipe, second_backbone=second_backbone)
    spec, state = encoder or settings.encoder, work_folder(out, work)
    own = checkpoint_folder(spec)
    found = training_sources(sources, breadth=(), validation=validate or ())
    try:
        if unfreeze is not None:
            tuning = unfrozen_recipe(tunable_folder(own, spec), epochs=unfreeze, num_views=recipe.num_views, seed=recipe.fit.seed)
            with new_training_listener() as tuning_listener:
                tune_encoder(
                    found,
                    tuning,
                    out=out,
                    work=state / "encoder",
                    device=choose_device(settings.device),
                    max_pixels=settings.max_pixels,
                    listener=tuning_listener,
                )
            spec, own = str(out), out
        with new_fusion_listener() as listener:
            outcome = train_fusion(
                found.pairs,
                found.validation,
                load_encoder(spec, device=settings.device),
                recipe,
                out=out,
                work=state,
                device=choose_device(settings.device),
                max_pixels=settings.max_pixels,
                listener=listener,
                begin_with=None if own is None else load_alignment(own),
            )
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt("stopped; the run's state is kept, the same command goes on from it") from interrupt
    for figures in outcome.figures:
        typer.echo(str(figures))
    typer.echo(f"expected calibration error {outcome.calibration_error:.1f} %")
    matches, others = outcome.kept_at_half
    typer.echo(f"a match probability of 0.5 is reached by {matches:.0f} % of the matches and {others:.0f} % of the other candidates")
    for warning in outcome.warnings:
        typer.echo(f"sightline: {warning}", err=True)
    typer.echo(f"{outcome.folder}: trained")
