"""The service as a process: an address, uvicorn, and a line that says where it is."""

import socket
import sys

import uvicorn

from api.http.access import require_keys
from api.http.app import create_app
from api.http.service import Service
from api.http.settings import ServiceSettings
from api.library import Sightline
from sightline.errors import InvalidSetting

GRACE_S = 30
"""What a shutdown waits for requests that have begun."""


def run(sightline: Sightline, settings: ServiceSettings) -> None:
    """Serve until SIGINT or SIGTERM; what was begun is finished first.

    Raises `InvalidSetting` for an address that can't be had, and for one that others reach while there is no key.
    """
    with _listen(settings) as listener:
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        require_keys(sightline.store, host=host)
        app = create_app(Service(sightline, settings.model_copy(update={"host": host})))
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=GRACE_S, server_header=False)
        sys.stderr.write(f"sightline: serving at http://{shown}:{port}/ (Ctrl-C stops)\n")
        sys.stderr.flush()
        uvicorn.Server(config).run(sockets=[listener])


def _listen(settings: ServiceSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise InvalidSetting(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror}; choose another with --port"
        ) from error
    listener.set_inheritable(False)
    return listener
