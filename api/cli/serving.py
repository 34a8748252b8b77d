"""`sightline serve`."""

from typing import Annotated

import typer

from api.cli.options import DeviceOption, EncoderOption, FusionOption, StoreOption
from api.cli.session import open_session


def serve(
    context: typer.Context,
    *,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Address to listen on.", show_default="$SIGHTLINE_SERVICE_HOST or 127.0.0.1")
    ] = None,
    port: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="Port; 0 takes a free one.", show_default="$SIGHTLINE_SERVICE_PORT or 8000")
    ] = None,
    encoder: EncoderOption = None,
    fusion: FusionOption = None,
    device: DeviceOption = None,
    store: StoreOption = None,
) -> None:
    """Serve searches and indexing over HTTP, and a page to search with, until Ctrl-C."""
    from api.http.serving import run
    from api.http.settings import load_service_settings

    settings = load_service_settings(host=host, port=port)
    with open_session(context, store=store, encoder=encoder, fusion=fusion, device=device, create=True) as sightline:
        run(sightline, settings)
