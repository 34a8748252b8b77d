"""The dual encoder's pooling and projections."""

from dataclasses import replace

import pytest
import torch

from sightline.encoders.checkpoint import build_dual_encoder
from sightline.encoders.dual_encoder import DualEncoder, Projection
from sightline.encoders.image_backbone import map_widths
from tests.tiny_checkpoint import tiny_config, tiny_model


def _pooling_stages(*, num_frozen_stages: int) -> DualEncoder:
    config = tiny_config(num_frozen_stages=num_frozen_stages)
    widths = map_widths(tiny_model(num_frozen_stages=num_frozen_stages).image, image_side=config.image.image_side)
    pooled_width = sum(widths[max(0, num_frozen_stages - 1) :])
    torch.manual_seed(0)
    return build_dual_encoder(replace(config, pools_stages=True, pooled_width=pooled_width)).eval()


@pytest.mark.parametrize("num_frozen_stages", [0, 2, 5])
def test_pooling_stages_reads_the_mean_of_every_map_in_order(num_frozen_stages: int) -> None:
    model = _pooling_stages(num_frozen_stages=num_frozen_stages)
    pixels = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)

    with torch.inference_mode():
        stem_maps = model.stem_maps(pixels)
        pooled = model.tuned_pooled(stem_maps)
        maps = (pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
        means = []
        for stage in model.image.stages:
            maps = stage(maps)
            means.append(maps.mean(dim=(2, 3)))

    torch.testing.assert_close(pooled, torch.cat(means[max(0, num_frozen_stages - 1) :], dim=1), atol=1e-5, rtol=1e-4)
    assert model.embed_pixels(pixels).shape == (3, 24)


def test_pooling_the_last_stage_reads_the_image_tokens() -> None:
    model = tiny_model()
    stem_maps = model.stem_maps(torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8))
    with torch.inference_mode():
        torch.testing.assert_close(model.tuned_pooled(stem_maps), model.token_maps(stem_maps).mean(dim=(2, 3)))


def test_a_projection_standardises_what_it_reads() -> None:
    features = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 100, 0.1, 3, 3, 0]) + 7
    projection = Projection(6, hidden_dim=4, out_dim=2).eval()
    read = []
    projection.hidden.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))

    projection.standardise(features)
    projection(features)

    (standardised,) = read
    torch.testing.assert_close(standardised.mean(dim=0), torch.zeros(6), atol=1e-4, rtol=0)
    deviation = standardised.std(dim=0)
    assert 0.8 < float(deviation[1]) <= 1.01
    assert float(deviation.max()) <= 1.01, "a feature that hardly varies is not blown up"
    assert float(standardised[:, 5].abs().max()) < 1e-4
