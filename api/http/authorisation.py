"""Whether who asks may: dependencies of routes, one for each scope.

    @router.post("/search", dependencies=[MaySearch])       only to be checked
    def search(actor: Searcher, ...)                        who it is, checked

The collection of a path, or of a parameter `collection`, is checked too. A route that learns of collections in another way, from its body
or by listing, asks the actor: `actor.require_collection(name)`, `actor.may_use(name)`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.routing import BaseRoute, Match
from starlette.types import Scope as RequestScope

from api.http.access import Actor
from api.http.authentication import actor_of
from api.http.known_parameters import require_known_parameters
from api.http.service import Service, ServiceDep
from sightline.errors import NotPermitted
from sightline.types import Scope

__all__ = [
    "Administrator",
    "MayAdminister",
    "MaySearch",
    "MayWrite",
    "Requires",
    "Scope",
    "Searcher",
    "WhoAsks",
    "Writer",
    "administrative",
]

_bearer = HTTPBearer(auto_error=False, description="A key that POST /v1/keys or `sightline keys create NAME` made")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same, for those who cannot set `Authorization`")


class Requires:
    """A dependency: raises `NotAuthenticated` or `NotPermitted` unless the request's key has the scope, for this collection.

    What an administrator does that is about no collection is about all: it takes a key for all. Whoever may ask is told of a parameter
    that the route does not take (`RequestValidationError`), so that this holds for every route that asks for a key.
    """

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    async def __call__(
        self,
        request: Request,
        service: ServiceDep,
        _bearer: Annotated[object | None, Security(_bearer)] = None,
        _header: Annotated[str | None, Security(_header)] = None,
    ) -> Actor:
        """Checks one request and says who asks."""
        return await self.check(request, service)

    async def check(self, request: Request, service: Service) -> Actor:
        """The same, for a route that FastAPI solves no dependencies of."""
        actor = await actor_of(request.scope, service.access, origins=service.settings.cors_origins)
        try:
            self._require(actor, request)
        except NotPermitted as error:
            if self.scope is Scope.ADMIN:
                await run_in_threadpool(service.refusals.note, request.scope, error, who=str(actor))
            raise
        require_known_parameters(request)
        return actor

    def _require(self, actor: Actor, request: Request) -> None:
        actor.require_scope(self.scope)
        in_path = request.path_params.get("collection")
        if in_path is not None:
            actor.require_collection(in_path)
        elif self.scope is Scope.ADMIN:
            actor.require_all_collections()
        for collection in request.query_params.getlist("collection"):
            actor.require_collection(collection)


MaySearch = Depends(Requires(Scope.SEARCH))
MayWrite = Depends(Requires(Scope.WRITE))
MayAdminister = Depends(Requires(Scope.ADMIN))

Searcher = Annotated[Actor, MaySearch]
Writer = Annotated[Actor, MayWrite]
Administrator = Annotated[Actor, MayAdminister]


async def _who_asks(request: Request, service: ServiceDep) -> Actor:
    return await actor_of(request.scope, service.access, origins=service.settings.cors_origins)


WhoAsks = Annotated[Actor, Depends(_who_asks)]
"""Who asks, for a route that one of the others stands before."""


def administrative(routes: Sequence[BaseRoute]) -> Callable[[RequestScope], bool]:
    """Whether a request is for one of those routes that take the scope admin, whoever sends it."""
    taking_admin = [route for route in routes if isinstance(route, APIRoute) and Scope.ADMIN in _scopes(route.dependant)]
    return lambda scope: any(route.matches(scope)[0] is Match.FULL for route in taking_admin)


def _scopes(dependant: Dependant) -> Iterator[Scope]:
    if isinstance(dependant.call, Requires):
        yield dependant.call.scope
    for each in dependant.dependencies:
        yield from _scopes(each)
