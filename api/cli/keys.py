"""`sightline keys`: make, list and revoke the keys of the service."""

import getpass
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.guard import complain
from api.cli.options import JsonOption, StoreOption
from api.cli.session import open_session
from sightline.types import KeyId, Scope

if TYPE_CHECKING:
    from sightline.storage.keys import KeyRecord
    from sightline.storage.store import Store

app = typer.Typer(help="Make, list and revoke the keys of the service.", no_args_is_help=True)

_DAYS_AT_MOST = 36_500


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who will use it; names need not differ.")],
    *,
    scope: Annotated[
        list[Scope], typer.Option("--scope", help="What it may do: write stands for search too, and admin for all; may be repeated.")
    ],
    collection: Annotated[
        list[str] | None,
        typer.Option("--collection", "-c", metavar="NAME", help="Only this collection; may be repeated.", show_default="all"),
    ] = None,
    expires_in_days: Annotated[
        int | None,
        typer.Option(min=1, max=_DAYS_AT_MOST, metavar="NUMBER", help="It opens nothing after so many days.", show_default="never"),
    ] = None,
    as_json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Make a key and print it: this once, since only a digest is kept."""
    from datetime import UTC, datetime, timedelta

    from api.cli.console import write_json
    from sightline.storage.keys import NewKey

    expires_at = None if expires_in_days is None else datetime.now(UTC) + timedelta(days=expires_in_days)
    wanted = NewKey(name, frozenset(scope), frozenset(collection) if collection else None, expires_at)
    with open_session(context, store=store, create=True) as sightline:
        secret, record = sightline.store.keys.create(wanted)
        _note(sightline.store, "key.create", record)
        unknown = sorted((wanted.collections or frozenset()) - {each.name for each in sightline.collections()})
    if as_json:
        write_json({"key": secret, **_shown(record)})
    else:
        typer.echo(secret)
        complain(f"this is key {record.key_id}; keep it now, it cannot be shown again")
    for missing in unknown:
        complain(f"note: there is no collection {missing} yet")


@app.command("list")
def list_keys(context: typer.Context, *, as_json: JsonOption = False, store: StoreOption = None) -> None:
    """List keys: what they may do, and when they were used last; the keys themselves are nowhere."""
    from api.cli.console import cell, new_table, stdout_console, write_json

    with open_session(context, store=store) as sightline:
        records = sightline.store.keys.list()
    if as_json:
        write_json([_shown(record) for record in records])
        return
    table = new_table("key", "name", "may", "collections", "state", "created", "expires", "last used", right=("key",))
    for record in records:
        collections = "all" if record.collections is None else ", ".join(sorted(record.collections))
        state = "revoked" if record.revoked_at is not None else "valid" if record.counts() else "expired"
        row = (record.key_id, record.name, ", ".join(sorted(record.scopes)), collections, state)
        table.add_row(*(cell(value) for value in (*row, record.created_at, record.expires_at, record.last_used_at)))
    stdout_console().print(table if records else "there are no keys yet; `sightline keys create NAME --scope search` makes one")


@app.command()
def revoke(
    context: typer.Context,
    key_id: Annotated[int, typer.Argument(metavar="ID", help="Its number, as `sightline keys list` shows it.")],
    *,
    store: StoreOption = None,
) -> None:
    """Have a key open nothing any more, within a second and for good."""
    with open_session(context, store=store) as sightline:
        record = sightline.store.keys.revoke(KeyId(key_id))
        _note(sightline.store, "key.revoke", record)
    typer.echo(f"revoked key {record.key_id} ({record.name})")


def _note(store: "Store", action: str, record: "KeyRecord") -> None:
    from sightline.storage.audit import NewAuditEvent

    details = {"name": record.name, "scopes": sorted(record.scopes)}
    store.audit.append(NewAuditEvent(f"{_person()} at the command line", action, f"key {record.key_id}", details=details))


def _person() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have a number and no name
        return "somebody"


def _shown(record: "KeyRecord") -> dict[str, object]:
    return {
        "key_id": record.key_id,
        "name": record.name,
        "scopes": sorted(record.scopes),
        "collections": None if record.collections is None else sorted(record.collections),
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "revoked_at": record.revoked_at,
        "last_used_at": record.last_used_at,
    }
