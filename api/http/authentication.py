"""Middleware that finds out who asks, before a byte of the request's body is read: a stranger's gigabyte is not taken in first.

Paths of the API are answered 401 and 429 here. What the actor may do is `api.http.authorisation`'s to say.
"""

import asyncio
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.access import AccessList, Actor, is_loopback
from api.http.problems import send_problem
from api.http.rate_limit import RateLimit
from api.http.refusals import NOBODY, Refusals
from sightline.errors import AccessDenied, NotPermitted, SightlineError

GUARDED_PREFIXES = ("/v1/", "/v2/", "/metrics")
OPEN_HEADER = "X-Sightline-Access"
_OPEN = (OPEN_HEADER.lower().encode(), b"open: no key exists, and only this machine is served")
_ACTOR = "sightline.actor"


async def actor_of(scope: Scope, access: AccessList, *, origins: Collection[str] = ()) -> Actor:
    """Who asks; found out once a request. Raises `NotAuthenticated`, `NotPermitted` and `DatabaseUnavailable`."""
    if _ACTOR not in scope:
        headers = Headers(scope=scope)
        secret = _secret(headers)
        if access.is_at_hand():
            actor = access.actor(secret)
        else:
            actor = await asyncio.to_thread(access.actor, secret)
        if actor.key_id is None:
            _refuse_other_pages(scope, headers, origins=origins)
        elif access.is_touch_due(actor.key_id):
            asyncio.get_running_loop().run_in_executor(None, access.touch, actor.key_id)
        scope[_ACTOR] = actor
    actor_: Actor = scope[_ACTOR]
    return actor_


class Authentication:
    """The middleware."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        access: AccessList,
        rate_limit: RateLimit | None,
        refusals: Refusals,
        is_administrative: Callable[[Scope], bool],
        origins: Collection[str] = (),
    ) -> None:
        self._app = app
        self._access = access
        self._rate_limit = rate_limit
        self._refusals = refusals
        self._is_administrative = is_administrative
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http" or not scope["path"].startswith(GUARDED_PREFIXES):
            await self._app(scope, receive, send)
            return
        try:
            actor = await actor_of(scope, self._access, origins=self._origins)
            if self._rate_limit is not None:
                self._rate_limit.take(_payer(actor, scope))
        except SightlineError as error:
            if isinstance(error, AccessDenied) and self._is_administrative(scope):
                await run_in_threadpool(self._refusals.note, scope, error, who=NOBODY)
            await send_problem(error, scope, receive, send)
            return

        async def send_as_open(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], _OPEN]
            await send(message)

        await self._app(scope, receive, send if actor.key_id is not None else send_as_open)


def _secret(headers: Headers) -> str | None:
    """The key that a request brings; `Authorization` comes first, since it is what a client sets on purpose."""
    scheme, _, credentials = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip()
    return headers.get("X-API-Key")


def _payer(actor: Actor, scope: Scope) -> str:
    if actor.key_id is not None:
        return f"key {actor.key_id}"
    return str((scope.get("client") or ("",))[0])


def _refuse_other_pages(scope: Scope, headers: Headers, *, origins: Collection[str]) -> None:
    """A page from elsewhere, open in a browser on this machine, must not use a service that asks for no key.

    It could under a name that it has turned to this machine (DNS rebinding), with a form, or by showing pictures. The names of this
    machine, and the address that the server is bound to, are fine.
    """
    host = headers.get("Host", "")
    hostname = urlsplit(f"//{host}").hostname or ""
    bound = (scope.get("server") or ("",))[0]
    if host and not is_loopback(hostname) and hostname != bound:
        raise NotPermitted(f"without keys the service is for this machine alone, under a name of its own; {hostname!r} is none")
    origin = headers.get("Origin")
    if origin in origins:
        return
    is_elsewhere = origin is not None and urlsplit(origin).netloc != host
    if is_elsewhere or headers.get("Sec-Fetch-Site") == "cross-site":
        raise NotPermitted("without keys the service answers no pages of other origins; set SIGHTLINE_SERVICE_CORS_ORIGINS to allow one")
