"""Fixtures that every folder of tests may use."""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from sightline.encoders.composed import ComposedEncoder, load_composed_encoder
from tests.tiny_checkpoint import write_tiny_checkpoint

pytest_plugins = ["tests.needs", "tests.postgres"]

# An example's time says how busy the machine is, not whether the code is right.
settings.register_profile("sightline", deadline=None)
settings.load_profile("sightline")


# A shell that starts the tests in the background has them ignore Ctrl-C, and so would every program that they start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_encoder_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `--encoder` takes: a seeded checkpoint that embeds in milliseconds."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("encoders") / "tiny")


@pytest.fixture(scope="session")
def tiny_encoder(tiny_encoder_path: Path) -> ComposedEncoder:
    """The encoder of `tiny_encoder_path`, on the CPU."""
    return load_composed_encoder(tiny_encoder_path, name=str(tiny_encoder_path), device="cpu")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=12m", "tmpfs", folder], capture_output=True, check=False).returncode
    ):
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", folder], check=True)
