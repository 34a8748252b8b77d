"""The service as a process: an address, uvicorn, and a line that says where it is."""

import resource
import signal
import socket
import sys
from types import FrameType

import uvicorn

from api.http.access import require_keys
from api.http.app import create_app
from api.http.service import Service
from api.http.settings import ServiceSettings
from api.http.slow_clients import ImpatientProtocol, drop_who_does_not_read
from api.http.threads import leave_long_lived_objects_alone
from api.library import Sightline
from sightline.errors import InvalidSetting

GRACE_S = 30
"""What a shutdown waits for requests that have begun."""

KEEP_ALIVE_S = 30
"""An idle connection that has had an answer: a page's next search comes within it.."""

_BACKLOG = 2048
_MAX_CONNECTIONS = 10_000
_OTHER_FILES = 512
"""Segments, the catalogue, jobs: what a process has open beside connections."""


def run(sightline: Sightline, settings: ServiceSettings) -> None:
    """Serve until SIGINT or SIGTERM; what was begun is finished first. Returns after SIGTERM.

    Raises `KeyboardInterrupt` after SIGINT, and `InvalidSetting` for an address that can't be had, or that others reach while there is no
    key.
    """
    with listening(settings) as listener:
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        require_keys(sightline.store, host=host)
        service = Service(sightline, settings.model_copy(update={"host": host}))
        service.warming.start(then=leave_long_lived_objects_alone)
        sys.stderr.write(f"sightline: serving at http://{shown}:{port}/ (Ctrl-C stops)\n")
        sys.stderr.flush()
        _EndsStreams(service).run(sockets=[listener])


class _EndsStreams(uvicorn.Server):
    """Tells the service at the signal to end: streams of events would keep it from ending until the grace is over."""

    def __init__(self, service: Service) -> None:
        super().__init__(configured(service))
        self._stopping = service.stopping

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See uvicorn, which raises the signal again once all is finished: that is a Ctrl-C for the command line.

        SIGTERM is how a service is asked to end. Raised again it would end the process there and then, with the store open and the exit
        code of a failure.
        """
        self._stopping.set()
        if sig == signal.SIGTERM:
            self.should_exit = True
        else:
            super().handle_exit(sig, frame)


def configured(service: Service) -> uvicorn.Config:
    """How uvicorn is to run the service's app."""
    return uvicorn.Config(
        create_app(service),
        http=ImpatientProtocol,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=KEEP_ALIVE_S,
        limit_concurrency=_max_connections(),
        backlog=_BACKLOG,
    )


def _max_connections() -> int:
    """As many as files may be opened, which is raised as far as it goes: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_CONNECTIONS + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return _MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(64, min(_MAX_CONNECTIONS, soft - _OTHER_FILES))


def listening(settings: ServiceSettings) -> socket.socket:
    """A socket at the address of the settings. Raises `InvalidSetting` where it can't be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # TCP by name: asyncio turns Nagle's algorithm off only where the protocol is said, and with it an answer's body waits 40 ms for the
    # acknowledgement of its head.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(_BACKLOG)  # now, so that who reads where the service is can connect
    except OSError as error:
        listener.close()
        raise InvalidSetting(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror}; choose another with --port"
        ) from error
    drop_who_does_not_read(listener)
    listener.set_inheritable(False)
    return listener
