"""The second backbone: what it reads of pixels, and that it survives being packed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sightline.encoders.image_backbone import ImageBackboneConfig, build_image_backbone
from sightline.encoders.second_backbone import SecondBackbone, feature_dim_of, load_second_backbone, save_second_backbone
from sightline.errors import InvalidCheckpoint

CONFIG = ImageBackboneConfig("timm", "tf_efficientnet_lite0", 64, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.fixture(scope="module")
def second() -> SecondBackbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SecondBackbone(CONFIG, build_image_backbone(CONFIG)).placed(torch.device("cpu"))


def pixels(side: int = 64, num_pictures: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(num_pictures, side, side, 3), dtype=np.uint8)


def test_features_are_the_means_of_later_maps_and_the_maxima_of_the_last(second: SecondBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sightline.encoders.second_backbone.autocast_dtype", lambda _: None)  # in single precision, to compare
    found = second.features(pixels())
    scaled = (torch.from_numpy(pixels()).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    with torch.inference_mode():
        maps = []
        for stage in second.backbone.stages:
            scaled = stage(scaled)
            maps.append(scaled)
    expected = torch.cat([*(each.mean(dim=(2, 3)) for each in maps[-4:]), maps[-1].amax(dim=(2, 3))], dim=1)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4, rtol=1e-4)
    assert feature_dim_of(second) == expected.shape[1]


def test_pictures_of_another_side_are_resized(second: SecondBackbone) -> None:
    flat = np.full((2, 32, 32, 3), 90, dtype=np.uint8)
    np.testing.assert_allclose(second.features(flat), second.features(np.full((2, 64, 64, 3), 90, dtype=np.uint8)), atol=0.05, rtol=0.05)


def test_a_picture_is_read_the_same_alone_and_among_many(second: SecondBackbone) -> None:
    many = pixels(num_pictures=35)  # more than are read in one go
    together = second.features(many)
    assert together.shape == (35, feature_dim_of(second))
    spread = together.std(axis=0).mean()
    assert np.abs(second.features(many[33:34])[0] - together[33]).mean() < 0.05 * spread  # half precision adds up in another order


def test_what_is_read_back_reads_pictures_alike(second: SecondBackbone, tmp_path: Path) -> None:
    path = tmp_path / "second.safetensors"
    save_second_backbone(path, second)
    found = load_second_backbone(path, CONFIG)
    before, after = second.features(pixels()), found.features(pixels())
    cosines = (before * after).sum(axis=1) / np.linalg.norm(before, axis=1) / np.linalg.norm(after, axis=1)
    assert (cosines > 0.99).all()  # eight bits a weight
    num_weights = sum(tensor.numel() for tensor in second.backbone.state_dict().values())
    assert path.stat().st_size < 1.3 * num_weights


def test_a_file_that_is_damaged_or_of_another_network_is_refused(second: SecondBackbone, tmp_path: Path) -> None:
    path = tmp_path / "second.safetensors"
    save_second_backbone(path, second)
    other = ImageBackboneConfig("timm", "test_resnet", 64, CONFIG.pixel_mean, CONFIG.pixel_std)
    with pytest.raises(InvalidCheckpoint, match="no weights of test_resnet"):
        load_second_backbone(path, other)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InvalidCheckpoint, match=r"second\.safetensors"):
        load_second_backbone(path, CONFIG)
    with pytest.raises(InvalidCheckpoint):
        load_second_backbone(tmp_path / "missing.safetensors", CONFIG)
