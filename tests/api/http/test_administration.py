"""What an administrator does over HTTP, and that all of it is in the audit list."""

import json
import logging
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from api import Sightline
from api.http.app import create_app
from api.http.refusals import MOST_AN_HOUR, Refusals
from api.http.service import Service
from api.http.settings import load_service_settings
from indexer.hubness import OwnQueries
from sightline.errors import NotPermitted
from sightline.logs import LOGGER_ROOTS, current_level
from sightline.types import Scope
from tests.api.http.keys import bearer, new_key


@pytest.fixture(autouse=True)
def loggers_as_before() -> Iterator[None]:
    before = {name: (logging.getLogger(name).level, list(logging.getLogger(name).handlers)) for name in LOGGER_ROOTS}
    yield
    for name, (level, handlers) in before.items():
        logging.getLogger(name).setLevel(level)
        logging.getLogger(name).handlers[:] = handlers


@pytest.fixture
def admin(sightline: Sightline) -> Iterator[TestClient]:
    """Has a key for everything."""
    app = create_app(Service(sightline, load_service_settings()))
    with TestClient(app, raise_server_exceptions=False, headers=bearer(new_key(sightline, Scope.ADMIN))) as client:
        yield client


def _events(client: TestClient) -> list[tuple[str, str]]:
    return [(event["action"], event["subject"]) for event in client.get("/v1/audit").json()["events"]]


def test_a_key_is_made_shown_once_and_revoked(admin: TestClient) -> None:
    made = admin.post("/v1/keys", json={"name": "ci", "scopes": ["search"], "collections": ["default"], "expires_in_days": 1})
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    secret = made.json()["key"]

    theirs = {"Authorization": f"Bearer {secret}"}
    assert admin.get("/v1/collections/default", headers=theirs).status_code == 200
    listed = admin.get("/v1/keys")
    assert secret not in listed.text
    assert listed.json()[-1] == {name: value for name, value in made.json().items() if name != "key"} | {
        "last_used_at": listed.json()[-1]["last_used_at"]
    }

    revoked = admin.delete(f"/v1/keys/{made.json()['key_id']}").json()
    assert revoked["revoked_at"] is not None
    assert not revoked["is_valid"]
    assert admin.get("/v1/collections/default", headers=theirs).status_code == 401
    assert _events(admin) == [("key.revoke", "key 2"), ("key.create", "key 2")]
    assert secret not in admin.get("/v1/audit").text


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"name": "ci", "scopes": []}, 422),
        ({"name": "ci", "scopes": ["everything"]}, 422),
        ({"name": "", "scopes": ["search"]}, 422),
        ({"name": "a\nb", "scopes": ["search"]}, 400),
        ({"name": "ci", "scopes": ["search"], "collections": []}, 422),
        ({"name": "ci", "scopes": ["search"], "collections": ["a\0b"]}, 400),
        ({"name": "ci", "scopes": ["search"], "collections": [""]}, 400),
        ({"name": "ci", "scopes": ["search"], "expires_in_days": -1}, 422),
        ({"name": "ci", "scopes": ["search"], "expires_in_days": 1e300}, 422),
        ({"name": "ci", "scopes": ["search"], "digest": "0"}, 422),
    ],
)
def test_a_key_that_cannot_be_is_a_sentence(admin: TestClient, body: object, status: int) -> None:
    assert admin.post("/v1/keys", json=body).status_code == status
    assert len(admin.get("/v1/keys").json()) == 1


@pytest.mark.parametrize("key_id", ["7", "0", "x", "99999999999999999999"])
def test_a_key_that_is_not_there_cannot_be_revoked(admin: TestClient, key_id: str) -> None:
    assert admin.delete(f"/v1/keys/{key_id}").status_code == (404 if key_id == "7" else 422)


def test_the_first_key_ends_the_open_service(sightline: Sightline) -> None:
    with TestClient(create_app(Service(sightline, load_service_settings()))) as client:
        assert client.post("/v1/keys", json={"name": "me", "scopes": ["admin"]}).status_code == 201
        assert client.get("/v1/collections").status_code == 401
    (event,) = sightline.store.audit.page()
    assert event.actor == "anyone on this machine"


def test_a_collection_is_made_renamed_and_deleted(admin: TestClient) -> None:
    made = admin.post("/v1/collections", json={"name": "new"})
    assert made.status_code == 201
    assert made.json()["encoder"] == "histogram"
    assert made.json()["num_items"] == {}
    assert admin.post("/v1/collections", json={"name": "new"}).status_code == 409

    renamed = admin.patch("/v1/collections/new", json={"name": "newer"})
    assert renamed.json()["name"] == "newer"
    assert admin.get("/v1/collections/new").status_code == 404
    assert admin.patch("/v1/collections/newer", json={"name": "default"}).status_code == 409

    assert admin.delete("/v1/collections/newer").status_code == 204
    assert admin.delete("/v1/collections/newer").status_code == 404
    assert _events(admin) == [("collection.delete", "newer"), ("collection.rename", "new"), ("collection.create", "new")]


def test_what_a_collection_holds_is_said_and_taken_back(admin: TestClient) -> None:
    assert admin.get("/v1/collections/default").json()["description"] == ""
    described = admin.patch("/v1/collections/default", json={"description": "Six colours"})
    assert (described.status_code, described.json()["name"], described.json()["description"]) == (200, "default", "Six colours")
    assert [(each["name"], each["description"]) for each in admin.get("/v1/collections").json()] == [("default", "Six colours")]
    again = admin.patch("/v1/collections/default", json={"description": "Six colours"})  # changes nothing, and nothing is noted
    assert (again.status_code, again.json()["description"]) == (200, "Six colours")
    assert admin.patch("/v1/collections/default", json={"name": "colours"}).json()["description"] == "Six colours"
    both = admin.patch("/v1/collections/colours", json={"name": "default", "description": ""})
    assert (both.json()["name"], both.json()["description"]) == ("default", "")
    made = admin.post("/v1/collections", json={"name": "new", "description": "Nothing yet"})
    assert (made.status_code, made.json()["description"]) == (201, "Nothing yet")
    assert _events(admin) == [
        ("collection.create", "new"),
        ("collection.rename", "colours"),
        ("collection.describe", "colours"),
        ("collection.rename", "default"),
        ("collection.describe", "default"),
    ]


def _first_hit(client: TestClient) -> dict[str, float | None]:
    hit: dict[str, float | None] = client.post("/v1/collections/default/search", json={"text": "red", "modality": "image"}).json()["hits"][
        0
    ]
    return hit


def test_what_is_taken_off_of_the_hubness_bias_is_turned_off_and_on(admin: TestClient, sightline: Sightline) -> None:
    assert admin.get("/v1/collections/default").json()["hubness"] == {}
    assert _first_hit(admin)["adjusted_similarity"] is None
    sightline.correct_hubness(OwnQueries.CAPTIONS)
    bank = {"strength": 0.5, "num_queries": 1, "origin": "1 caption"}
    assert admin.get("/v1/collections/default").json()["hubness"] == {"image": bank}
    half = _first_hit(admin)

    off = admin.patch("/v1/collections/default", json={"hubness_strength": {"image": 0}})
    assert (off.status_code, off.json()["hubness"]) == (200, {"image": {**bank, "strength": 0}})
    assert _first_hit(admin)["adjusted_similarity"] is None
    with sightline.store.writer():  # nobody who writes is waited for
        on = admin.patch("/v1/collections/default", json={"hubness_strength": {"image": 1}, "description": "Six colours"})
    assert (on.json()["hubness"]["image"]["strength"], on.json()["description"]) == (1, "Six colours")
    whole = _first_hit(admin)
    assert half["similarity"] is not None
    assert half["adjusted_similarity"] is not None
    assert whole["adjusted_similarity"] == pytest.approx(2 * half["adjusted_similarity"] - half["similarity"], abs=1e-6)

    admin.patch("/v1/collections/default", json={"hubness_strength": {"image": 1}})  # changes nothing, and nothing is noted
    events = [(event["action"], event["details"]) for event in admin.get("/v1/audit").json()["events"]]
    assert events == [
        ("collection.hubness", {"modality": "image", "strength": 1, "strength_before": 0}),
        ("collection.describe", {"description": "Six colours"}),
        ("collection.hubness", {"modality": "image", "strength": 0, "strength_before": 0.5}),
    ]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "nothing is to change"),
        ({"hubness_strength": {}}, "nothing is to change"),
        ({"hubness_strength": {"image": 1.5}}, "less than or equal to 1"),
        ({"hubness_strength": {"image": -0.1}}, "greater than or equal to 0"),
        ({"hubness_strength": {"image": float("nan")}}, "hubness_strength.image"),
        ({"hubness_strength": {"video": 0.5}}, "'image' or 'text'"),
        ({"hubness_strength": {"text": 0.5}, "name": "other", "description": "Six colours"}, "no bank of queries for its texts"),
        ({"name": None, "description": None}, "nothing is to change"),
        ({"description": "two\nlines"}, "in one line"),
        ({"description": "x" * 501}, "500"),
        ({"description": "\ud800"}, "unicode"),
        ({"description": 7}, "string"),
        ({"name": "other", "description": "two\nlines"}, "in one line"),
        ({"encoder": "sightline-mini"}, "Extra inputs"),
    ],
)
def test_what_is_no_change_changes_nothing(admin: TestClient, body: dict[str, object], said: str) -> None:
    before = admin.get("/v1/collections/default").json()
    response = admin.patch("/v1/collections/default", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422), response.text
    assert said in response.json()["detail"]
    assert admin.get("/v1/collections/default").json() == before
    assert _events(admin) == []


def test_a_collection_that_is_put_is_there(admin: TestClient) -> None:
    assert admin.put("/v1/collections/new").status_code == 201
    again = admin.put("/v1/collections/new")
    assert (again.status_code, again.json()["name"]) == (200, "new")
    assert _events(admin) == [("collection.create", "new")]


@pytest.mark.parametrize("name", ["", " x", "a/b", "x" * 201, "a\u0007", ".", "..", "a\ufffd"])
def test_a_name_that_is_none_is_refused(admin: TestClient, name: str) -> None:
    for response in (admin.post("/v1/collections", json={"name": name}), admin.patch("/v1/collections/default", json={"name": name})):
        assert response.status_code in (400, 422)
        assert response.json()["detail"]
    assert _events(admin) == []


def test_a_collection_has_what_it_takes(admin: TestClient) -> None:
    before = admin.get("/v1/collections/default").json()
    admin.post("/v1/collections/default/search", json={"text": "red"})
    after = admin.get("/v1/collections/default").json()

    assert before["num_items"] == {"image": 6}
    assert before["indexes"] == ["exact"]
    assert before["size_bytes"] > 0
    assert before["num_missing_embeddings"] == 0
    assert after["memory_bytes"] == 6 * after["embedding_dim"] * 2


def test_a_collection_that_is_being_written_cannot_be_deleted(admin: TestClient, sightline: Sightline) -> None:
    with sightline.store.writer():
        response = admin.delete("/v1/collections/default")
    assert (response.status_code, response.json()["type"]) == (409, "StoreBusy")
    assert _events(admin) == []


def test_an_alias_works_wherever_a_name_does(admin: TestClient) -> None:
    assert admin.put("/v1/aliases/current", json={"collection": "default"}).json()["collection"] == "default"

    assert admin.get("/v1/collections/current").json()["name"] == "default"
    found = admin.post("/v1/collections/current/search", json={"text": "red", "top_k": 2})
    assert [hit["rank"] for hit in found.json()["hits"]] == [1, 2]
    assert [alias["name"] for alias in admin.get("/v1/aliases").json()] == ["current"]
    assert admin.post("/v1/collections", json={"name": "current"}).status_code == 409
    assert admin.put("/v1/aliases/default", json={"collection": "default"}).status_code == 409
    assert admin.put("/v1/aliases/x", json={"collection": "nothing"}).status_code == 404

    assert admin.delete("/v1/aliases/current").status_code == 204
    assert admin.delete("/v1/aliases/current").status_code == 404
    assert admin.get("/v1/collections/current").status_code == 404
    assert _events(admin) == [("alias.delete", "current"), ("alias.put", "current")]


@pytest.mark.parametrize("name", ["%2e%2e", "%2e", "%ff", "%ed%a0%80", "a%00", "%20"])
def test_an_alias_that_no_address_or_database_holds_is_refused(admin: TestClient, name: str) -> None:
    refused = admin.put(f"/v1/aliases/{name}", json={"collection": "default"})
    assert (refused.status_code, refused.json()["type"]) == (400, "InvalidInput")
    assert admin.get("/v1/aliases").json() == []


def test_aliases_of_other_collections_are_not_shown(admin: TestClient, sightline: Sightline) -> None:
    admin.put("/v1/aliases/current", json={"collection": "default"})
    for collections, shown in ((["default"], ["current"]), (["other"], [])):
        headers = bearer(new_key(sightline, Scope.SEARCH, collections=collections))
        assert [alias["name"] for alias in _eventually(admin, headers)] == shown


def _eventually(client: TestClient, headers: dict[str, str]) -> list[dict[str, str]]:
    """A key that another process made counts within a second."""
    deadline = time.monotonic() + 30
    while (response := client.get("/v1/aliases", headers=headers)).status_code != 200:
        assert time.monotonic() < deadline
    aliases: list[dict[str, str]] = response.json()
    return aliases


def test_the_audit_list_is_read_page_by_page_with_who_and_in_which_request(admin: TestClient) -> None:
    for number in range(3):
        assert (
            admin.put(f"/v1/aliases/a{number}", json={"collection": "default"}, headers={"X-Request-ID": f"r{number}"}).status_code == 200
        )

    first = admin.get("/v1/audit", params={"limit": 2}).json()
    second = admin.get("/v1/audit", params={"limit": 2, "before": first["next_before"]}).json()

    events = [*first["events"], *second["events"]]
    assert [(event["subject"], event["request_id"]) for event in events] == [("a2", "r2"), ("a1", "r1"), ("a0", "r0")]
    assert second["next_before"] is None
    assert {event["actor"] for event in events} == {"test (key 1)"}
    assert events[0]["details"] == {"collection": "default"}


def test_the_level_of_the_log_is_set_while_the_service_runs(admin: TestClient) -> None:
    assert admin.put("/v1/log-level", json={"level": "debug"}).status_code == 200
    assert current_level() == "debug"
    assert admin.get("/v1/settings").json()["log_level"] == "debug"
    assert admin.put("/v1/log-level", json={"level": "loud"}).status_code == 422
    assert _events(admin) == [("log-level.put", "debug")]


def test_settings_are_shown_as_they_are(admin: TestClient) -> None:
    shown = admin.get("/v1/settings").json()
    assert shown["service"]["max_json_bytes"] == load_service_settings().max_json_bytes
    assert shown["store"]["database_url"].startswith("sqlite:///")
    assert shown["store"]["encoder"]


def _refusals(client: TestClient) -> list[tuple[str, str, str]]:
    events = client.get("/v1/audit").json()["events"]
    return [(event["actor"], event["subject"], event["details"]["why"]) for event in reversed(events) if event["action"] == "refused"]


def test_refused_attempts_to_administer_are_in_the_list_once(admin: TestClient, sightline: Sightline) -> None:
    searching = bearer(new_key(sightline, Scope.SEARCH))
    writing = bearer(new_key(sightline, Scope.WRITE))
    until_known = time.monotonic() + 30
    while admin.get("/v1/aliases", headers=writing).status_code != 200:
        assert time.monotonic() < until_known
    for _ in range(3):
        assert admin.post("/v1/keys", json={"name": "me", "scopes": ["admin"]}, headers=searching).status_code == 403
        assert admin.delete("/v1/collections/default", headers=bearer("sl_guessed")).status_code == 401
        assert admin.post("/v1/jobs", json={"kind": "compact", "collection": "default"}, headers=writing).status_code == 403
    assert admin.post("/v1/collections/default/search", json={"text": "red"}, headers=bearer("sl_guessed")).status_code == 401
    assert admin.delete("/v1/collections/default/items/1", headers=searching).status_code == 403

    found = _refusals(admin)
    assert [(actor, subject) for actor, subject, _ in found] == [
        ("test (key 2)", "POST /v1/keys"),
        ("nobody with a valid key", "DELETE /v1/collections/default"),
        ("test (key 3)", "POST /v1/jobs"),
    ]
    assert all("scope admin" in why or "no such key" in why for *_, why in found)
    assert "sl_guessed" not in admin.get("/v1/audit").text

    assert admin.put("/v1/log-level", json={"level": "debug"}, headers=searching).status_code == 403
    last = admin.get("/v1/audit").json()["events"][0]
    assert (last["subject"], last["details"]["num_left_out"], last["details"]["client"]) == ("PUT /v1/log-level", 6, "testclient")


def test_what_is_refused_again_and_again_does_not_fill_the_list(sightline: Sightline) -> None:
    now_s = [0.0]
    refusals, error = Refusals(sightline.store.audit, clock=lambda: now_s[0]), NotPermitted("no")

    def refuse(path: str, *, times: int = 1) -> None:
        for _ in range(times):
            refusals.note({"type": "http", "method": "GET", "path": path}, error, who="ann")

    refuse("/a", times=5)
    now_s[0] = 599
    refuse("/a")
    now_s[0] = 600
    refuse("/a")
    assert [event.details["num_left_out"] for event in sightline.store.audit.page()] == [5, 0]
    for number in range(200):
        refuse(f"/{number}")
    assert len(sightline.store.audit.page(limit=1000)) == MOST_AN_HOUR
    now_s[0] = 3600 + 600
    refuse("/late")
    events = sightline.store.audit.page(limit=1000)
    assert (len(events), events[0].details["num_left_out"]) == (MOST_AN_HOUR + 1, 200 - (MOST_AN_HOUR - 2))


def test_a_list_that_cannot_be_written_to_changes_no_answer(admin: TestClient, sightline: Sightline, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "store" / "catalogue.sqlite") as connection:
        connection.execute("CREATE TRIGGER no_more BEFORE INSERT ON audit_event BEGIN SELECT RAISE(ABORT, 'the list is full'); END")
    connection.close()
    assert admin.get("/v1/keys", headers=bearer("sl_guessed")).status_code == 401


def test_the_first_key_is_one_that_can_make_others(client: TestClient) -> None:
    for body in ({"scopes": ["search"]}, {"scopes": ["write"]}, {"scopes": ["admin"], "collections": ["default"]}):
        refused = client.post("/v1/keys", json={"name": "ann", **body})
        assert (refused.status_code, refused.json()["type"]) == (409, "Conflict"), body
        assert "make one with the scope admin first" in refused.json()["detail"]
    assert client.get("/v1/keys").json() == []  # still open, and as it was
    made = client.post("/v1/keys", json={"name": "ann", "scopes": ["admin"]})
    assert made.status_code == 201
    assert client.get("/v1/keys").status_code == 401
    assert client.post("/v1/keys", json={"name": "bob", "scopes": ["search"]}, headers=bearer(made.json()["key"])).status_code == 201


def test_a_key_that_is_revoked_twice_is_told_of_once(admin: TestClient) -> None:
    key_id = admin.post("/v1/keys", json={"name": "ci", "scopes": ["search"]}).json()["key_id"]
    first, second = (admin.delete(f"/v1/keys/{key_id}").json() for _ in range(2))
    assert first["revoked_at"] == second["revoked_at"]
    assert _events(admin) == [("key.revoke", f"key {key_id}"), ("key.create", f"key {key_id}")]


def test_items_that_are_added_replaced_and_deleted_are_in_the_audit_list(admin: TestClient) -> None:
    items = "/v1/collections/default/items"
    lines = {"Content-Type": "application/x-ndjson"}
    sent = admin.post(items, content='{"key": "note", "text": "a red ball"}', headers=lines).json()["items"][0]
    for text in ("a red ball", "a blue ball"):  # the first is there as it is: nothing is done
        admin.post(items, content=f'{{"key": "note", "text": "{text}"}}', headers=lines)
    (item,) = [each for each in admin.get(items, params={"modality": "text"}).json()["items"] if each["key"] == "note"]
    assert admin.delete(f"{items}/{item['item_id']}").status_code == 200
    queued = admin.post(items, content='{"key": "later", "text": "a ball"}', headers=lines, params={"when": "later"}).json()["job"]
    events = admin.get("/v1/audit").json()["events"]
    assert [(event["action"], event["subject"], event["details"]) for event in events][1:] == [
        ("items.delete", "default", {"num_deleted": 1, "item_ids": [item["item_id"]]}),
        ("items.send", "default", {"num_added": 0, "num_replaced": 1}),
        ("items.send", "default", {"num_added": 1, "num_replaced": 0}),
    ]
    assert (events[0]["action"], events[0]["subject"], events[0]["details"]["kind"]) == ("job.queue", queued["job_id"], "upload")
    assert all(event["actor"].startswith("test (key ") and event["request_id"] for event in events)
    assert sent["status"] == "added"
