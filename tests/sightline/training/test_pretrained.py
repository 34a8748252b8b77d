"""Weights of image backbones: from the cache, from a hub or by their address, and what is said where they cannot be had."""

import hashlib
import shutil
import socket
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision import models

from sightline.encoders.hub_files import HubAccess
from sightline.encoders.image_backbone import ImageBackboneConfig, build_image_network
from sightline.errors import EncoderUnavailable
from sightline.training.pretrained import fetched, pretrained_image_network
from tests.sightline.encoders.small_hub import SmallHub, small_hub

NO_SERVER = "http://127.0.0.1:9"  # the discard port: refused at once
REPOSITORY = "timm/test_resnet.r160_in1k"
TIMM = ImageBackboneConfig("timm", "test_resnet", 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
TORCHVISION = ImageBackboneConfig("torchvision", "squeezenet1_1", 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def seeded(config: ImageBackboneConfig) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return build_image_network(config)


@pytest.fixture(scope="module")
def hub_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stands for timm's repository, and one without weights."""
    root = tmp_path_factory.mktemp("hub")
    folder = root / REPOSITORY.rpartition("/")[2]
    folder.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        save_file(timm.create_model("test_resnet").state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "pytorch_model.bin").write_bytes(b"the same once more")
    return root


@pytest.fixture
def server(hub_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallHub]:
    """The hub, reachable also where the tests themselves run with HF_HUB_OFFLINE."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with small_hub(shutil.copytree(hub_root, tmp_path / "hub"), owner="timm") as hub:
        yield hub


@pytest.fixture(autouse=True)
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch keeps what came by an address."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def access(endpoint: str, cache_folder: Path, *, is_offline: bool = False) -> HubAccess:
    return HubAccess(endpoint=endpoint, cache_folder=cache_folder, is_offline=is_offline, timeout_s=2.0)


def test_timms_weights_are_downloaded_once_and_then_need_no_network(server: SmallHub, hub_root: Path, tmp_path: Path) -> None:
    first = pretrained_image_network(TIMM, hub=access(server.endpoint, tmp_path))
    num_requests = len(server.requests)
    again = pretrained_image_network(TIMM, hub=access(NO_SERVER, tmp_path, is_offline=True))

    given = load_file(hub_root / REPOSITORY.rpartition("/")[2] / "model.safetensors")
    for network in (first, again):
        torch.testing.assert_close(network.state_dict(), {name: given[name] for name in network.state_dict()}, atol=0, rtol=0)
    assert len(server.requests) == num_requests
    fetched_names = {request.rpartition("/")[2] for request in server.requests if "resolve" in request}
    assert fetched_names == {"model.safetensors"}  # and not the same weights in another form


def test_without_a_network_the_message_says_what_where_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    started_s = time.monotonic()
    with pytest.raises(EncoderUnavailable) as refusal:
        pretrained_image_network(TIMM, hub=access(NO_SERVER, tmp_path))
    assert time.monotonic() - started_s < 5  # generous: the point is that nobody waits through retries
    message = str(refusal.value)
    for part in (
        "timm's 'test_resnet'",
        str(tmp_path),
        f"{NO_SERVER} cannot be reached",
        f"`hf download {REPOSITORY}`",
        "HF_HUB_CACHE",
        "--image-weights FILE",
        "--from-scratch",
    ):
        assert part in message
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")


def test_offline_by_the_environment_no_request_is_made(server: SmallHub, tmp_path: Path) -> None:
    with pytest.raises(EncoderUnavailable, match="HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids"):
        pretrained_image_network(TIMM, hub=access(server.endpoint, tmp_path, is_offline=True))
    assert server.requests == []


def test_what_a_hub_refuses_or_lacks_is_explained(server: SmallHub, tmp_path: Path) -> None:
    server.status_by_model[REPOSITORY] = HTTPStatus.BAD_GATEWAY
    with pytest.raises(EncoderUnavailable, match="answered 502"):
        pretrained_image_network(TIMM, hub=access(server.endpoint, tmp_path))
    server.status_by_model.clear()
    for path in (server.root / "test_resnet.r160_in1k").glob("*model*"):
        path.unlink()
    with pytest.raises(EncoderUnavailable, match=f"{REPOSITORY} on .* has no model.safetensors and no pytorch_model.bin; pass a file"):
        pretrained_image_network(TIMM, hub=access(server.endpoint, tmp_path))


def test_a_damaged_file_of_weights_is_named(server: SmallHub, tmp_path: Path) -> None:
    (server.root / "test_resnet.r160_in1k" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(EncoderUnavailable, match=r"model\.safetensors cannot be loaded: .*; delete it to have it fetched again"):
        pretrained_image_network(TIMM, hub=access(server.endpoint, tmp_path))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_such_network", "timm has no image backbone 'no_such_network'"),
        ("test_resnet.nope", "timm has no weights 'test_resnet.nope'; it has test_resnet.r160_in1k"),
        ("botnet50ts_256", "timm distributes none; pass a file of weights with --image-weights"),
    ],
)
def test_a_name_that_has_no_weights_is_told_without_asking(name: str, reason: str, tmp_path: Path) -> None:
    config = ImageBackboneConfig("timm", name, 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with pytest.raises(EncoderUnavailable, match=reason):
        pretrained_image_network(config, hub=access(NO_SERVER, tmp_path))


def test_torchvisions_weights_are_read_from_torchs_cache(torch_home: Path, tmp_path: Path) -> None:
    torch_home.mkdir(parents=True)
    state = seeded(TORCHVISION).state_dict()
    torch.save(state, torch_home / models.SqueezeNet1_1_Weights.DEFAULT.url.rpartition("/")[2])

    network = pretrained_image_network(TORCHVISION, hub=access(NO_SERVER, tmp_path))

    torch.testing.assert_close(network.state_dict(), state, atol=0, rtol=0)


def test_a_host_of_weights_that_is_not_reached_is_named(
    torch_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    url = f"{NO_SERVER}/models/squeezenet1_1-b8a52dc0.pth"
    monkeypatch.setattr(models.SqueezeNet1_1_Weights.DEFAULT.value, "url", url)

    with pytest.raises(EncoderUnavailable) as refusal:
        pretrained_image_network(TORCHVISION, hub=access(NO_SERVER, tmp_path))

    message = str(refusal.value)
    for part in (
        "torchvision's 'squeezenet1_1'",
        str(torch_home / "squeezenet1_1-b8a52dc0.pth"),
        f"{NO_SERVER} cannot be reached",
        f"Fetch {url}",
        "TORCH_HOME",
        "--image-weights FILE",
    ):
        assert part in message
    assert not torch_home.exists()
    assert capfd.readouterr() == ("", "")


def test_what_is_behind_an_address_is_fetched_once(server: SmallHub, torch_home: Path) -> None:
    name = f"net-{hashlib.sha256(b'weights').hexdigest()[:8]}.pth"
    (server.root / "test_resnet.r160_in1k" / name).write_bytes(b"weights")
    url = f"{server.endpoint}/{REPOSITORY}/resolve/main/{name}"

    for _ in range(2):
        assert fetched(url, subject="weights", timeout_s=2) == torch_home / name

    assert (torch_home / name).read_bytes() == b"weights"
    assert len(server.requests) == 1
    assert [path.name for path in torch_home.iterdir()] == [name]


def test_what_is_not_the_file_that_its_name_promises_is_not_kept(server: SmallHub, torch_home: Path) -> None:
    (server.root / "test_resnet.r160_in1k" / "net-0123abcd.pth").write_bytes(b"a page that asks to log in")
    with pytest.raises(EncoderUnavailable, match="what came is not the file that its name promises"):
        fetched(f"{server.endpoint}/{REPOSITORY}/resolve/main/net-0123abcd.pth", subject="weights", timeout_s=2)
    assert list(torch_home.iterdir()) == []


def test_an_answer_without_the_file_is_told(server: SmallHub) -> None:
    with pytest.raises(EncoderUnavailable, match=f"{server.endpoint} answered 404"):
        fetched(f"{server.endpoint}/nobody/nothing/resolve/main/net.pth", subject="weights", timeout_s=2)


def test_a_host_that_never_answers_is_given_up_within_its_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        started_s = time.monotonic()
        with pytest.raises(EncoderUnavailable, match="timed out"):
            fetched(f"http://127.0.0.1:{mute.getsockname()[1]}/net.pth", subject="weights", timeout_s=0.2)
    assert time.monotonic() - started_s < 5  # generous: the point is that somebody gives up
