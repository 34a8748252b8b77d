"""The migrations build what the tables say, in one piece or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text

import migrations
from sightline.errors import DatabaseUnavailable, InvalidSetting, SchemaTooNew, StorageError
from sightline.storage.database import Database, catalogue_url
from sightline.storage.store import Store
from sightline.storage.tables import SCHEMA_REVISION
from tests.sightline.storage.conftest import make_collection
from tests.sightline.storage.synthetic import new_items, unit_rows

_ROOT = Path(migrations.__file__).parent.parent


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_ROOT / "migrations"))
    return config


def test_the_newest_migration_is_the_one_that_the_code_expects() -> None:
    assert ScriptDirectory.from_config(_config()).get_heads() == [SCHEMA_REVISION]


def test_alembic_check_finds_nothing_to_migrate_on_a_new_store(store: Store) -> None:
    config = _config()
    with store._database.writing() as connection:
        config.attributes["connection"] = connection
        command.check(config)


def test_the_migrations_can_be_undone_and_done_again(tmp_path: Path, database_url: str | None) -> None:
    database = Database(catalogue_url(tmp_path, database_url))
    database.migrate()
    config = _config()
    with database.writing() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    assert database.revision() is None
    database.migrate()
    assert database.revision() == SCHEMA_REVISION
    database.close()


def test_a_store_of_the_first_schema_is_brought_up_to_date(tmp_path: Path, database_url: str | None) -> None:
    with Store.open(tmp_path, database_url=database_url) as store:
        collection = make_collection(store)
        with store.writer() as writer:
            ids = writer.commit(collection.collection_id, added=new_items("abc"), embeddings=unit_rows(3))
            writer.commit(collection.collection_id, deleted=ids[:1])
        store.alter_collection(collection.collection_id, description="Water")
        config = _config()
        with store._database.writing() as connection:
            config.attributes["connection"] = connection
            command.downgrade(config, "0001")
    with Store.open(tmp_path, database_url=database_url) as store:
        assert store._database.revision() == SCHEMA_REVISION
        assert store.banks(collection.collection_id) == []
        assert store.collection(collection.name).description == ""
        assert store.snapshot(collection.collection_id).num_items() == 2
        assert store.statistics(collection.collection_id).num_tombstones == 1
        assert store.verify() == []


def test_a_migration_that_fails_leaves_nothing(tmp_path: Path, database_url: str | None) -> None:
    database = Database(catalogue_url(tmp_path, database_url))
    with database.writing() as connection:
        connection.execute(text("CREATE TABLE ledger_entry (in_the_way INTEGER)"))
    with pytest.raises(StorageError, match="ledger_entry"):
        database.migrate()
    assert database.revision() is None
    with database.writing() as connection:
        connection.execute(text("DROP TABLE ledger_entry"))
    database.migrate()
    assert database.revision() == SCHEMA_REVISION
    database.close()


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path, database_url: str | None) -> None:
    with Store.open(tmp_path, database_url=database_url) as store, store._database.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaTooNew, match=r"'9999'.*upgrade Sightline"):
        Store.open(tmp_path, database_url=database_url)


def test_a_store_opens_from_any_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database_url: str | None) -> None:
    monkeypatch.chdir(tmp_path)
    with Store.open(Path("here"), database_url=database_url) as store:
        assert store.collections() == []
        assert store.folder == tmp_path / "here"


def test_alembic_runs_from_a_checkout(tmp_path: Path, database_url: str | None) -> None:
    url = database_url or f"sqlite:///{tmp_path / 'catalogue.sqlite'}"
    environment = {**os.environ, "SIGHTLINE_DATABASE_URL": url}
    for arguments in (["upgrade", "head"], ["check"]):
        done = subprocess.run(
            [sys.executable, "-m", "alembic", "-c", str(_ROOT / "alembic.ini"), *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("url", ["nonsense", "mysql://localhost/x", "sqlite://", "sqlite:///:memory:"])
def test_a_url_of_neither_database_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidSetting, match="expected postgresql://"):
        Store.open(tmp_path, database_url=url)


def test_a_database_out_of_reach_is_named_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="can't be reached") as caught:
        Store.open(tmp_path, database_url="postgresql://someone:secret@127.0.0.1:1/photos")
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "catalogue.sqlite").write_bytes(b"this is no database, but it is long enough to look like one" * 100)
    with pytest.raises(StorageError, match="damaged"):
        Store.open(tmp_path)
