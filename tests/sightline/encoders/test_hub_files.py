"""A model is found in a folder, in the cache or on a hub, and its absence is explained."""

import shutil
import socket
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

from sightline.encoders.hub_encoder import load_hub_encoder
from sightline.encoders.hub_files import TEXT_BACKBONE, HubAccess, find_model, missing_parts, model_file_names, weight_names
from sightline.errors import EncoderUnavailable, InvalidCheckpoint
from tests.sightline.encoders.small_hub import SmallHub, small_hub
from tests.sightline.encoders.tiny_hub_models import save_clip

NO_SERVER = "http://127.0.0.1:9"  # the discard port: refused at once


@pytest.fixture(scope="module")
def hub_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repositories of a small hub: `tiny/clip`, and `tiny/empty` with nothing but a README."""
    root = tmp_path_factory.mktemp("hub")
    save_clip(root / "clip")
    (root / "clip" / "README.md").write_text("A tiny CLIP", encoding="utf-8")
    (root / "clip" / "tf_model.h5").write_bytes(b"weights for another library")
    (root / "empty").mkdir()
    (root / "empty" / "README.md").write_text("Nothing", encoding="utf-8")
    return root


@pytest.fixture
def server(hub_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallHub]:
    """The hub, reachable also where the tests themselves run with HF_HUB_OFFLINE."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with small_hub(hub_root) as hub:
        yield hub


def access(endpoint: str, cache_folder: Path, *, is_offline: bool = False) -> HubAccess:
    """The way to a hub, with a timeout that tests can wait for."""
    return HubAccess(endpoint=endpoint, cache_folder=cache_folder, is_offline=is_offline, timeout_s=2.0)


def test_a_model_is_downloaded_once_and_then_needs_no_network(server: SmallHub, hub_root: Path, tmp_path: Path) -> None:
    downloaded = load_hub_encoder("tiny/clip", device="cpu", hub=access(server.endpoint, tmp_path))
    num_requests = len(server.requests)
    assert num_requests > 0
    again = load_hub_encoder("tiny/clip", device="cpu", hub=access(server.endpoint, tmp_path))
    offline = load_hub_encoder("tiny/clip", device="cpu", hub=access(NO_SERVER, tmp_path, is_offline=True))
    assert len(server.requests) == num_requests
    from_folder = load_hub_encoder(str(hub_root / "clip"), device="cpu")
    assert downloaded.name == again.name == offline.name == "tiny/clip"
    assert downloaded.fingerprint == again.fingerprint == offline.fingerprint == from_folder.fingerprint
    np.testing.assert_array_equal(downloaded.embed_texts(["a dog"]), from_folder.embed_texts(["a dog"]))


def test_only_what_makes_the_model_is_downloaded(server: SmallHub, tmp_path: Path) -> None:
    found = find_model("tiny/clip", hub=access(server.endpoint, tmp_path))
    assert {path.name for path in found.folder.iterdir()} == set(found.file_names)
    assert not any("README" in request or "tf_model" in request for request in server.requests if "resolve" in request)


def test_a_broken_off_download_is_taken_up_again(server: SmallHub, tmp_path: Path) -> None:
    found = find_model("tiny/clip", hub=access(server.endpoint, tmp_path))
    (found.folder / "model.safetensors").unlink()
    repaired = find_model("tiny/clip", hub=access(server.endpoint, tmp_path))
    assert (repaired.folder / "model.safetensors").is_file()


def test_a_folder_comes_before_the_hub(hub_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny").mkdir()
    shutil.copytree(hub_root / "clip", tmp_path / "tiny" / "clip")
    monkeypatch.chdir(tmp_path)
    found = find_model("tiny/clip", hub=access(NO_SERVER, tmp_path / "cache"))
    assert found.folder == (tmp_path / "tiny" / "clip").resolve()
    assert found.name == str(found.folder)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (HTTPStatus.NOT_FOUND, "has no such model, or it is private and wants a token"),
        (HTTPStatus.FORBIDDEN, "asks to accept the model's terms first"),
        (HTTPStatus.BAD_GATEWAY, "answered 502"),
    ],
)
def test_what_a_hub_refuses_is_explained(status: HTTPStatus, reason: str, server: SmallHub, tmp_path: Path) -> None:
    server.status_by_model["tiny/clip"] = status
    with pytest.raises(EncoderUnavailable, match=reason) as refusal:
        find_model("tiny/clip", hub=access(server.endpoint, tmp_path))
    assert server.endpoint in str(refusal.value)


def test_a_repository_without_a_model_is_refused_before_anything_is_downloaded(server: SmallHub, tmp_path: Path) -> None:
    with pytest.raises(InvalidCheckpoint, match=r"tiny/empty.* lacks config.json, weights"):
        find_model("tiny/empty", hub=access(server.endpoint, tmp_path))
    assert not any("resolve" in request for request in server.requests)


def test_without_a_network_the_message_says_what_where_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(EncoderUnavailable) as refusal:
        find_model("openai/clip-vit-base-patch32", hub=access(NO_SERVER, tmp_path))
    message = str(refusal.value)
    for part in (
        "'openai/clip-vit-base-patch32'",
        str(tmp_path),
        f"{NO_SERVER} cannot be reached",
        "`hf download openai/clip-vit-base-patch32`",
        "HF_HUB_CACHE",
        "HF_HOME",
        "pass the folder of a model",
    ):
        assert part in message
    assert "\n" not in message


def test_a_hub_that_never_answers_is_given_up_within_its_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        hub = HubAccess(f"http://127.0.0.1:{mute.getsockname()[1]}", cache_folder=tmp_path, is_offline=False, timeout_s=0.2)
        started_s = time.monotonic()
        with pytest.raises(EncoderUnavailable, match="cannot be reached"):
            find_model("tiny/clip", hub=hub)
    assert time.monotonic() - started_s < 5  # generous: the point is that nobody waits through retries


def test_offline_by_the_environment_no_request_is_made(server: SmallHub, tmp_path: Path) -> None:
    with pytest.raises(EncoderUnavailable, match="HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids"):
        find_model("tiny/clip", hub=access(server.endpoint, tmp_path, is_offline=True))
    assert server.requests == []


@pytest.mark.parametrize("spec", ["", "no/such/folder", "/no/such/folder", "../nowhere", "~/nowhere at all", "a" * 200, "bad--name/x"])
def test_what_is_neither_a_folder_nor_a_hub_id_is_refused(spec: str, tmp_path: Path) -> None:
    with pytest.raises(EncoderUnavailable, match="no such folder, and it cannot be a hub id"):
        find_model(spec, hub=access(NO_SERVER, tmp_path))


def test_a_cache_that_cannot_be_written_is_named(server: SmallHub, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be", encoding="utf-8")
    with pytest.raises(EncoderUnavailable, match=r"tiny/clip.*cache"):
        find_model("tiny/clip", hub=access(server.endpoint, tmp_path / "cache"))


def test_the_environment_names_hub_and_cache() -> None:
    hub = HubAccess.from_environment()
    assert hub.endpoint == constants.ENDPOINT
    assert hub.cache_folder == Path(constants.HF_HUB_CACHE).expanduser()


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["pytorch_model.bin", "tf_model.h5"], ["pytorch_model.bin"]),
        (
            ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
            ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
        (["model.safetensors.index.json", "model-00002-of-00002.safetensors"], []),
        (["model-00001-of-00001.safetensors"], []),
        (["model.safetensors.index.json", "model-00001-of-00002.safetensors", "pytorch_model.bin"], ["pytorch_model.bin"]),
        (["open_clip_pytorch_model.bin", "adapter_model.safetensors"], []),
    ],
)
def test_one_whole_set_of_weights_is_chosen(names: list[str], weights: list[str]) -> None:
    assert weight_names(names) == weights


def test_a_text_backbone_needs_no_image_processor_and_takes_bert_s_vocabulary() -> None:
    whole = ["config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json", "preprocessor_config.json", "README.md"]
    assert missing_parts(whole, kind=TEXT_BACKBONE) == []
    assert missing_parts(whole) == ["a tokeniser (tokenizer.json)"]
    assert model_file_names(whole, kind=TEXT_BACKBONE) == ["config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt"]


def test_a_model_is_whole_with_four_parts() -> None:
    whole = ["config.json", "model.safetensors", "preprocessor_config.json", "vocab.json", "merges.txt", "README.md"]
    assert missing_parts(whole) == []
    assert model_file_names(whole) == ["config.json", "merges.txt", "model.safetensors", "preprocessor_config.json", "vocab.json"]
    assert len(missing_parts([])) == 4
