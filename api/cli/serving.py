"""`sightline serve`."""

from enum import StrEnum
from typing import Annotated

import typer

from api.cli.options import DeviceOption, EncoderOption, FusionOption, StoreOption
from api.cli.session import open_session


class LogFormat(StrEnum):
    """What log lines are; as in `sightline.logs`."""

    TEXT = "text"
    JSON = "json"


def serve(
    context: typer.Context,
    *,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Address to listen on.", show_default="$SIGHTLINE_SERVICE_HOST or 127.0.0.1")
    ] = None,
    port: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="Port; 0 takes a free one.", show_default="$SIGHTLINE_SERVICE_PORT or 8000")
    ] = None,
    log_format: Annotated[
        LogFormat | None,
        typer.Option(
            help="Log lines as text, or as JSON with the request's id; `sightline -v serve` logs every request.",
            show_default="$SIGHTLINE_SERVICE_LOG_FORMAT or text",
        ),
    ] = None,
    encoder: EncoderOption = None,
    fusion: FusionOption = None,
    device: DeviceOption = None,
    store: StoreOption = None,
) -> None:
    """Serve searches and indexing over HTTP, and a page to search with, until Ctrl-C."""
    from api.http.threads import one_thread_a_call, take_turns_quickly

    take_turns_quickly()
    one_thread_a_call()  # before the libraries that heed it are imported
    from api.http.serving import run
    from api.http.settings import load_service_settings
    from sightline.logs import configure_format

    settings = load_service_settings(host=host, port=port, log_format=log_format)
    configure_format(settings.log_format)
    with open_session(context, store=store, encoder=encoder, fusion=fusion, device=device, create=True) as sightline:
        run(sightline, settings)
