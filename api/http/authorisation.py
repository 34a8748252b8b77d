"""Who asks, and whether they may: keys in `Authorization: Bearer` or `X-API-Key`; without any key in the store, loopback is open."""

from enum import StrEnum
from typing import Annotated

from fastapi import Depends, Security
from fastapi.security import APIKeyHeader, HTTPBearer

from api.http.service import ServiceDep


class Scope(StrEnum):
    """What a key may do; each is asked for on its own, and `admin` stands for all."""

    SEARCH = "search"
    WRITE = "write"
    ADMIN = "admin"


_bearer = HTTPBearer(auto_error=False, description="A key made by `sightline keys create`")
_header = APIKeyHeader(name="X-API-Key", auto_error=False)


class Requires:
    """A dependency: raises `NotAuthenticated` or `NotPermitted` unless the request's key has the scope, for this collection."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    def __call__(
        self,
        service: ServiceDep,
        bearer: Annotated[object | None, Security(_bearer)] = None,
        key: Annotated[str | None, Security(_header)] = None,
    ) -> None:
        """Checks one request."""


MaySearch = Depends(Requires(Scope.SEARCH))
MayWrite = Depends(Requires(Scope.WRITE))
MayAdminister = Depends(Requires(Scope.ADMIN))
