"""Who may do what, of every operation that the OpenAPI document has: whoever adds one is covered, and must say what it takes."""

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from starlette.testclient import TestClient

from api import Sightline
from api.http.access import MAX_AGE_S, Actor, is_loopback
from api.http.app import create_app
from api.http.authorisation import Requires
from api.http.service import Service
from api.http.settings import load_service_settings
from sightline.storage.keys import NewKey
from sightline.types import KeyId, Scope
from tests.api.http.keys import bearer, new_key

OPEN_PATHS = {"/livez", "/readyz"}
"""What anybody may ask: whether the service is there."""

IN_COLLECTION = "default"


@dataclass(frozen=True)
class Operation:
    """One method of one path, as a client meets it."""

    method: str
    path: str

    def url(self, collection: str = IN_COLLECTION) -> str:
        """With something in the place of every parameter."""
        path = self.path.replace("{collection}", collection)
        while "{" in path:
            path = path[: path.index("{")] + "1" + path[path.index("}") + 1 :]
        return path

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@pytest.fixture
def app(sightline: Sightline) -> FastAPI:
    return create_app(Service(sightline, load_service_settings()))


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def operations(app: FastAPI, *, secured: bool = True) -> list[Operation]:
    found = []
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            if bool(operation.get("security")) is secured:
                found.append(Operation(method.upper(), path))
    return found


def scope_of(app: FastAPI, operation: Operation) -> Scope:
    """What the operation's own `Requires` asks for."""
    for context in iter_route_contexts(app.routes):
        if re.sub(r":\w+}", "}", context.path or "") == operation.path and operation.method in (context.methods or ()):
            scopes = [each.scope for each in _requirements(context.dependant)]
            return max(scopes, key=list(Scope).index)
    raise AssertionError(operation)


def _requirements(dependant: Dependant | None) -> Iterator[Requires]:
    if dependant is None:
        return
    if isinstance(dependant.call, Requires):
        yield dependant.call
    for each in dependant.dependencies:
        yield from _requirements(each)


def statuses(client: TestClient, asked: Iterable[Operation], headers: dict[str, str], *, collection: str = IN_COLLECTION) -> dict[str, int]:
    """What each answers."""
    return {str(each): _ask(client, each, headers, collection).status_code for each in asked}


def _ask(client: TestClient, operation: Operation, headers: dict[str, str], collection: str) -> Any:
    if operation.method == "GET":
        return client.get(operation.url(collection), headers=headers)
    return client.request(operation.method, operation.url(collection), headers=headers, json={})


def all_are(status: int, found: dict[str, int]) -> Sequence[str]:
    """Those that are not."""
    assert found
    return [f"{operation}: {other}" for operation, other in found.items() if other != status]


def test_only_what_says_that_the_service_is_there_takes_no_key(app: FastAPI) -> None:
    assert {operation.path for operation in operations(app, secured=False)} <= OPEN_PATHS


def test_what_writes_says_that_the_disk_may_be_full(app: FastAPI) -> None:
    paths = app.openapi()["paths"]
    writing = {each for each in operations(app) if each.method != "GET" and scope_of(app, each) is not Scope.SEARCH}
    declaring = {each for each in operations(app) if "507" in paths[each.path][each.method.lower()]["responses"]}
    assert len(writing) > 10
    assert sorted(map(str, declaring)) == sorted(map(str, writing))


def test_without_a_key_no_operation_answers(app: FastAPI, client: TestClient, sightline: Sightline) -> None:
    new_key(sightline, Scope.SEARCH)
    assert all_are(401, statuses(client, operations(app), {})) == []


@pytest.mark.parametrize("headers", [{"Authorization": "Basic abc"}, {"Authorization": "Bearer sl_wrong"}, {"X-API-Key": "sl_wrong"}])
def test_with_what_is_no_key_no_operation_answers(app: FastAPI, client: TestClient, sightline: Sightline, headers: dict[str, str]) -> None:
    new_key(sightline, Scope.ADMIN)
    assert all_are(401, statuses(client, operations(app), headers)) == []


def test_an_expired_key_opens_nothing(app: FastAPI, client: TestClient, sightline: Sightline, monkeypatch: pytest.MonkeyPatch) -> None:
    expires_at = datetime.now(UTC) + timedelta(seconds=0.2)
    secret, record = sightline.store.keys.create(NewKey("test", frozenset({Scope.ADMIN}), None, expires_at))
    deadline = time.monotonic() + 10
    while record.counts():
        assert time.monotonic() < deadline
    assert all_are(401, statuses(client, operations(app), bearer(secret))) == []


def test_a_revoked_key_opens_nothing(app: FastAPI, client: TestClient, sightline: Sightline) -> None:
    secret, record = sightline.store.keys.create(NewKey("test", frozenset({Scope.ADMIN})))
    sightline.store.keys.revoke(record.key_id)
    assert all_are(401, statuses(client, operations(app), bearer(secret))) == []


@pytest.mark.parametrize("scope", [Scope.SEARCH, Scope.WRITE])
def test_a_key_of_a_lesser_scope_is_not_enough(app: FastAPI, client: TestClient, sightline: Sightline, scope: Scope) -> None:
    beyond = [each for each in operations(app) if list(Scope).index(scope_of(app, each)) > list(Scope).index(scope)]
    assert all_are(403, statuses(client, beyond, bearer(new_key(sightline, scope)))) == []


@pytest.mark.parametrize("scope", list(Scope))
def test_a_key_of_other_collections_opens_none_of_this_one(app: FastAPI, client: TestClient, sightline: Sightline, scope: Scope) -> None:
    headers = bearer(new_key(sightline, scope, collections=["other"]))
    about_one = [each for each in operations(app) if "{collection}" in each.path]
    assert all_are(403, statuses(client, about_one, headers)) == []


def test_a_key_of_some_collections_administers_nothing_else(app: FastAPI, client: TestClient, sightline: Sightline) -> None:
    headers = bearer(new_key(sightline, Scope.ADMIN, collections=[IN_COLLECTION]))
    beyond = [each for each in operations(app) if "{collection}" not in each.path and scope_of(app, each) is Scope.ADMIN]
    if beyond:
        assert all_are(403, statuses(client, beyond, headers)) == []
        elsewhere = {
            str(each): client.request(each.method, each.url(), params={"collection": IN_COLLECTION}, headers=headers) for each in beyond
        }
        assert all_are(403, {name: response.status_code for name, response in elsewhere.items()}) == []


def test_a_request_that_is_refused_says_how_to_ask(client: TestClient, sightline: Sightline) -> None:
    secret = new_key(sightline, Scope.SEARCH, collections=["other"])
    unknown = client.get("/v1/collections")
    forbidden = client.get("/v1/collections/default", headers=bearer(secret))

    assert unknown.headers["www-authenticate"] == "Bearer"
    assert (unknown.json()["type"], forbidden.json()["type"]) == ("NotAuthenticated", "NotPermitted")
    assert unknown.headers["content-type"] == "application/problem+json"
    assert unknown.json()["request_id"] == unknown.headers["x-request-id"]
    assert "X-API-Key" in unknown.json()["detail"]


@pytest.mark.parametrize("header", ["Authorization", "X-API-Key"])
@pytest.mark.parametrize("scope", list(Scope))
def test_every_scope_may_search(client: TestClient, sightline: Sightline, scope: Scope, header: str) -> None:
    secret = new_key(sightline, scope)
    headers = {header: f"bearer {secret}" if header == "Authorization" else secret}
    response = client.post("/v1/collections/default/search", json={"text": "red"}, headers=headers)
    assert response.status_code == 200
    assert "x-sightline-access" not in response.headers


def test_a_list_of_collections_has_those_of_the_key(client: TestClient, sightline: Sightline) -> None:
    both, one, none = (new_key(sightline, Scope.SEARCH, collections=names) for names in (None, ["default"], ["other"]))
    found = [[each["name"] for each in client.get("/v1/collections", headers=bearer(key)).json()] for key in (both, one, none)]
    assert found == [["default"], ["default"], []]


def test_a_key_of_a_collection_opens_it_under_its_alias_and_no_other(client: TestClient, sightline: Sightline) -> None:
    sightline.store.aliases.put("current", collection="default")
    ours, theirs = new_key(sightline, Scope.SEARCH, collections=["default"]), new_key(sightline, Scope.SEARCH, collections=["current"])

    assert client.get("/v1/collections/current", headers=bearer(ours)).json()["name"] == "default"
    assert client.get("/v1/collections/current", headers=bearer(theirs)).status_code == 403


def test_who_may_not_see_a_collection_does_not_learn_whether_there_is_one(client: TestClient, sightline: Sightline) -> None:
    headers = bearer(new_key(sightline, Scope.SEARCH, collections=["other"]))
    there, not_there = client.get("/v1/collections/default", headers=headers), client.get("/v1/collections/defualt", headers=headers)
    assert (there.status_code, not_there.status_code) == (403, 403)
    assert there.json()["detail"].replace("default", "defualt") == not_there.json()["detail"]


def test_a_key_that_is_made_or_revoked_elsewhere_counts_within_a_second(client: TestClient, sightline: Sightline) -> None:
    assert client.get("/v1/collections").headers["x-sightline-access"].startswith("open")
    secret, record = sightline.store.keys.create(NewKey("test", frozenset({Scope.SEARCH})))
    _wait_for(lambda: client.get("/v1/collections").status_code == 401)
    assert client.get("/v1/collections", headers=bearer(secret)).status_code == 200
    sightline.store.keys.revoke(record.key_id)
    _wait_for(lambda: client.get("/v1/collections", headers=bearer(secret)).status_code == 401)


def test_the_use_of_a_key_is_noted(client: TestClient, sightline: Sightline) -> None:
    secret, record = sightline.store.keys.create(NewKey("test", frozenset({Scope.SEARCH})))
    client.get("/v1/collections", headers=bearer(secret))
    _wait_for(lambda: sightline.store.keys.get(record.key_id).last_used_at is not None)


def test_a_catalogue_that_is_away_is_asked_once_a_second_and_found_again(client: TestClient, sightline: Sightline, tmp_path: Path) -> None:
    secret = new_key(sightline, Scope.SEARCH)
    catalogue, away = tmp_path / "store" / "catalogue.sqlite", tmp_path / "away"
    sightline.store.close()  # a connection that is open would find the file wherever it is
    catalogue.rename(away)
    catalogue.mkdir()

    _wait_for(lambda: client.get("/v1/collections", headers=bearer(secret)).status_code == 503)
    catalogue.rmdir()
    away.rename(catalogue)

    _wait_for(lambda: client.get("/v1/collections", headers=bearer(secret)).status_code == 200)


def _wait_for(is_so: Any) -> None:
    """Within what is promised, and time for a busy machine."""
    deadline = time.monotonic() + MAX_AGE_S + 10
    while not is_so():
        assert time.monotonic() < deadline


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_another_address_than_loopback_is_never_open(sightline: Sightline, host: str) -> None:
    app = create_app(Service(sightline, load_service_settings(host=host)))
    with TestClient(app, client=("127.0.0.1", 50_000)) as client:
        assert client.get("/v1/collections", headers={"X-Forwarded-For": "127.0.0.1", "Host": "localhost"}).status_code == 401


@pytest.mark.parametrize(
    ("host", "is_one"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("127.0.0.1.nip.io", False),
        ("", False),
    ],
)
def test_what_is_loopback(host: str, is_one: bool) -> None:
    assert is_loopback(host) is is_one


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "evil.example:8000"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "localhost:8000", "Origin": "http://localhost:8000"}, 200),
        ({"Host": "localhost:8000", "Origin": "http://localhost:3000"}, 403),
        ({"Host": "localhost:8000", "Origin": "null"}, 403),
        ({"Host": "localhost:8000", "Origin": "https://evil.example"}, 403),
        ({"Host": "localhost:8000", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": "localhost:8000", "Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_an_open_service_answers_no_page_from_elsewhere(client: TestClient, headers: dict[str, str], status: int) -> None:
    assert client.get("/v1/collections", headers=headers).status_code == status


def test_what_an_actor_may() -> None:
    actor = Actor("ci", KeyId(3), frozenset({Scope.WRITE}), frozenset({"photos"}), {"current": "photos", "texts": "private"})
    assert str(actor) == "ci (key 3)"
    assert [name for name in ("photos", "current", "texts", "private") if actor.may_use(name)] == ["photos", "current"]
