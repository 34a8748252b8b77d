"""`sightline keys`, and what `sightline serve` says where there are none."""

import re
from pathlib import Path

import pytest

from sightline.storage.store import Store
from tests.api.cli.conftest import Run


@pytest.fixture(autouse=True)
def store_folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_a_key_is_printed_once_and_opens_what_it_says(run: Run, store_folder: Path) -> None:
    outcome = run("keys", "create", "ci", "--scope", "search", "--scope", "write", "-c", "photos", "--expires-in-days", "30")

    assert outcome.code == 0, outcome.err
    secret = outcome.out.strip()
    assert re.fullmatch(r"sl_[A-Za-z0-9_-]{43}", secret)
    assert "cannot be shown again" in outcome.err
    assert "there is no collection photos yet" in outcome.err
    with Store.open(store_folder) as store:
        record = store.keys.keys().find(secret)
        assert record is not None
        assert sorted(record.scopes) == ["search", "write"]
        assert record.collections == frozenset({"photos"})
        assert record.expires_at is not None
        (event,) = store.audit.page()
        assert (event.action, event.subject) == ("key.create", "key 1")
        assert event.actor.endswith("at the command line")
        assert secret not in repr(event)


def test_json_has_the_key_beside_what_is_known_of_it(run: Run) -> None:
    made = run("keys", "create", "ci", "--scope", "admin", "--json").json
    assert made["key"].startswith("sl_")
    (listed,) = run("keys", "list", "--json").json
    assert listed == {name: value for name, value in made.items() if name != "key"}
    assert "digest" not in listed


def test_the_list_says_what_each_may_and_whether_it_still_does(run: Run) -> None:
    assert run("keys", "create", "laptop", "--scope", "admin").code == 0
    assert run("keys", "create", "ci", "--scope", "search", "-c", "photos").code == 0
    assert run("keys", "revoke", "1").out == "revoked key 1 (laptop)\n"

    out = run("keys", "list").out
    first, second = out.splitlines()[-2:]
    assert first.split()[:5] == ["1", "laptop", "admin", "all", "revoked"]
    assert second.split()[:5] == ["2", "ci", "search", "photos", "valid"]


def test_a_store_without_keys_says_how_to_make_one(run: Run, indexed: Path) -> None:
    assert "`sightline keys create NAME --scope search`" in run("keys", "list").out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["keys", "revoke", "7"], 35),
        (["keys", "create", " ", "--scope", "search"], 10),
        (["keys", "create", "ci"], 2),
        (["keys", "create", "ci", "--scope", "everything"], 2),
        (["keys", "create", "ci", "--scope", "search", "--expires-in-days", "0"], 2),
    ],
)
def test_what_cannot_be_is_a_sentence(run: Run, indexed: Path, arguments: list[str], code: int) -> None:
    outcome = run(*arguments)
    assert outcome.code == code
    assert outcome.err
    assert run("keys", "list", "--json").json == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_another_address_is_not_served_until_a_key_opens_it(run: Run, indexed: Path, host: str) -> None:
    outcome = run("serve", "--host", host, "--port", "0")
    assert outcome.code == 11
    assert "`sightline keys create NAME --scope search`" in outcome.err

    run("keys", "create", "ci", "--scope", "search")
    run("keys", "revoke", "1")
    assert run("serve", "--host", host, "--port", "0").code == 11
