"""What is shipped, what it needs, and that its names are nobody else's."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("api", "indexer", "migrations", "search", "sightline")
OURS = (*SHIPPED, "benchmarks", "scripts", "tests")


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirements_of(pyproject: dict[str, Any], *extras: str) -> list[Requirement]:
    project = pyproject["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return [requirement for requirement in map(Requirement, lines) if requirement.name != "sightline"]


def lines_of(name: str) -> list[str]:
    """The lines of a requirements file, without its comments."""
    return [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]


def third_party_imports(folders: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """(top-level name, file) of every import that is neither ours nor Python's, wherever in a file it stands."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [node.module] if isinstance(node, ast.ImportFrom) else []
                names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                for name in names:
                    top = str(name).partition(".")[0]
                    if top not in sys.stdlib_module_names and top not in OURS:
                        yield top, path.relative_to(ROOT)


def undeclared_imports(folders: tuple[str, ...], declared: list[Requirement]) -> list[str]:
    distributions_by_name = packages_distributions()
    declared_names = {canonicalize_name(requirement.name) for requirement in declared}
    return [
        f"{path} imports {name}"
        for name, path in third_party_imports(folders)
        # A module that isn't installed here belongs to an extra that isn't: its distribution is then named like the module.
        if declared_names.isdisjoint(map(canonicalize_name, distributions_by_name.get(name, [name])))
    ]


def test_every_package_of_the_shipped_folders_is_listed_by_name(pyproject: dict[str, Any]) -> None:
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for name in SHIPPED
        for path in (ROOT / name).rglob("*.py")
        if "__pycache__" not in path.parts
    }
    assert set(pyproject["tool"]["setuptools"]["packages"]) == found


def test_the_wheel_holds_the_packages_and_their_files_and_never_the_tests(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for name in SHIPPED:
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests" / "house", checkout / "tests" / "house", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, checkout / name)

    build = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    built = subprocess.run([sys.executable, "-c", build], cwd=checkout, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr

    (wheel,) = checkout.glob("*.whl")
    files = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {
        path.relative_to(checkout).as_posix()
        for name in SHIPPED
        for path in (checkout / name).rglob("*")
        if path.is_file() and ".egg-info" not in path.as_posix()
    }
    assert files == expected


def test_no_installed_distribution_owns_one_of_our_top_level_names() -> None:
    # `search` or `tests` in somebody's wheel would be imported instead of ours, or the other way round, by luck of the path.
    owners_by_name = packages_distributions()
    owners = {name: set(owners_by_name.get(name, [])) - {"sightline"} for name in OURS}
    assert owners == {name: set() for name in OURS}


def test_every_import_of_a_shipped_module_is_a_requirement(pyproject: dict[str, Any]) -> None:
    assert (
        undeclared_imports(
            SHIPPED, [*requirements_of(pyproject, "parquet", "postgres", "train"), *map(Requirement, lines_of("requirements-train.txt"))]
        )
        == []
    )


def test_every_import_of_tests_benchmarks_and_scripts_is_a_requirement(pyproject: dict[str, Any]) -> None:
    declared = requirements_of(pyproject, "parquet", "postgres", "train", "demo", "dev")
    assert undeclared_imports(("benchmarks", "scripts", "tests"), declared) == []


def test_every_requirement_is_pinned_within_its_bounds(pyproject: dict[str, Any]) -> None:
    pins = {canonicalize_name(pin.name): pin for pin in map(Requirement, lines_of("constraints.txt"))}
    for requirement in requirements_of(pyproject, *(extra for extra in pyproject["project"]["optional-dependencies"])):
        (pinned,) = pins[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(pinned.version), requirement


def test_constraints_hold_exact_versions_and_nothing_of_the_machine_that_wrote_them() -> None:
    for line in lines_of("constraints.txt"):
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line), line
