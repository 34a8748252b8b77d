"""The likelihood of words: a hand-computed table, a plain reading of the definition, and what it may and may not change."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sightline.encoders.fusion_encoder import FusionEncoder, FusionEncoderConfig, WordLikelihood, Words

CONFIG = FusionEncoderConfig(
    token_dim=10, text_width=12, grid_height=2, grid_width=3, width=8, num_layers=0, num_bank_images=3, num_vocabulary=5, likelihood_dim=7
)
VOCABULARY = [3, 8, 20, 21, 30_000]
IDS = torch.tensor([[3, 20, 20, -1], [7, 7, 7, 7], [30_000, 21, 8, 3], [101, 8, -1, -1]])


@pytest.fixture
def encoder() -> FusionEncoder:
    torch.manual_seed(0)
    encoder = FusionEncoder(CONFIG)
    likelihood = encoder.likelihood
    assert likelihood is not None
    likelihood.vocabulary.copy_(torch.tensor(VOCABULARY))
    likelihood.log_shares.copy_(torch.linspace(0.05, 0.5, 5).log())
    likelihood.feature_mean.normal_()
    likelihood.feature_std.uniform_(0.5, 2)
    likelihood.weight.fill_(2.5)
    encoder.banks.patches.copy_(patches(3, seed=5))
    return encoder.eval()


def patches(num_images: int, *, seed: int) -> Tensor:
    rows = torch.randn(num_images, CONFIG.num_patches, CONFIG.width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=-1)


def texts() -> Words:
    return Words(torch.randn(4, 4, 12, generator=torch.Generator().manual_seed(3)), IDS >= 0, IDS)


def plain(likelihood: WordLikelihood, ids: list[int], picture: Tensor, bank: Tensor) -> float:
    """One text and one picture, (patches, width), a word at a time."""

    def mean_log_ratio(of: Tensor) -> float:
        features = torch.cat([of.mean(dim=0), of.max(dim=0).values])
        features = (features - likelihood.feature_mean) / likelihood.feature_std
        logits = likelihood.out(torch.nn.functional.gelu(likelihood.hidden(features)))
        known = sorted({VOCABULARY.index(each) for each in ids if each in VOCABULARY})
        shares = {each: math.exp(float(likelihood.log_shares[each])) for each in known}
        ratios = [math.log(0.97 / (1 + math.exp(-float(logits[each]))) / shares[each] + 0.03) for each in known]
        return sum(ratios) / (len(ratios) + 4)

    of_bank = [math.exp(4 * mean_log_ratio(each)) for each in bank]
    return mean_log_ratio(picture) - math.log(sum(of_bank) / len(of_bank)) / 4


def test_each_known_word_of_a_text_counts_once_and_alike(encoder: FusionEncoder) -> None:
    assert encoder.likelihood is not None
    expected = [[1 / 6, 0, 1 / 6, 0, 0], [0] * 5, [1 / 8, 1 / 8, 0, 1 / 8, 1 / 8], [0, 1 / 5, 0, 0, 0]]
    torch.testing.assert_close(encoder.likelihood.used_words(IDS), torch.tensor(expected))


def test_it_is_what_the_definition_says(encoder: FusionEncoder) -> None:
    likelihood, pictures = encoder.likelihood, patches(4, seed=6)
    assert likelihood is not None
    with torch.no_grad():
        found = likelihood(IDS, pictures, likelihood.hidden_states(encoder.banks.patches))
        expected = [[plain(likelihood, ids, picture, encoder.banks.patches) for picture in pictures] for ids in IDS.tolist()]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=0)
    assert found[1].abs().max() < 1e-6, "no word of this text is known"


def test_it_is_added_to_every_match_logit_with_its_weight(encoder: FusionEncoder) -> None:
    likelihood, pictures = encoder.likelihood, patches(4, seed=6)
    assert likelihood is not None
    chosen_texts, chosen_images = torch.tensor([0, 3, 2]), torch.tensor([1, 1, 0])
    with torch.no_grad():
        added = 2.5 * likelihood(IDS, pictures, likelihood.hidden_states(encoder.banks.patches))
        whole = encoder(texts(), pictures)
        pairs = encoder.forward_pairs(texts(), pictures, text_by_pair=chosen_texts, image_by_pair=chosen_images)
        without = encoder(replace(texts(), token_ids=None), pictures)  # words that are not known add nothing
    torch.testing.assert_close(whole, without + added)
    torch.testing.assert_close(pairs, whole[chosen_texts, chosen_images])


def test_half_precision_around_it_does_not_reach_it(encoder: FusionEncoder) -> None:
    pictures = patches(4, seed=6)
    with torch.no_grad():
        expected = encoder.likelihoods(texts(), pictures)
        with torch.autocast("cpu", torch.bfloat16):
            found = encoder.likelihoods(texts(), pictures)
    torch.testing.assert_close(found, expected)


def test_texts_with_pictures_of_their_own_get_what_they_get_with_all(encoder: FusionEncoder) -> None:
    likelihood, pictures = encoder.likelihood, patches(5, seed=6)
    assert likelihood is not None
    own = torch.tensor([[0, 4], [1, 1], [2, 0], [3, 2]])  # (texts, pictures)
    with torch.no_grad():
        bank = likelihood.hidden_states(encoder.banks.patches)
        expected = likelihood(IDS, pictures, bank).gather(1, own)
        torch.testing.assert_close(likelihood.forward_each(IDS, pictures[own], bank), expected)
        without_bank = likelihood.forward_each(IDS, pictures[own], bank[:0])
        torch.testing.assert_close(without_bank, likelihood(IDS, pictures, bank[:0]).gather(1, own))
