"""The layers of docs/architecture.md hold, and the contracts that say so leave nothing out."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

ALLOWED_BY_CONTRACT = {
    "networks": {"sightline.encoders", "sightline.training"},
    "sql-and-faiss": {"sightline.storage", "migrations"},
}
"""Who may import what the contract forbids to everybody else."""


@pytest.fixture(scope="module")
def contracts() -> dict[str, dict[str, Any]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return {contract["id"]: contract for contract in settings["contracts"]}


def test_the_import_contracts_hold() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    checked = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("contract_id", sorted(ALLOWED_BY_CONTRACT))
def test_a_contract_names_every_module_that_it_should_bind(contracts: dict[str, dict[str, Any]], contract_id: str) -> None:
    children = {path.stem for path in (ROOT / "sightline").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    modules = {"api", "indexer", "migrations", "search"} | {f"sightline.{child}" for child in children - {"__init__"}}
    assert set(contracts[contract_id]["source_modules"]) == modules - ALLOWED_BY_CONTRACT[contract_id]
