"""The fusion encoder's fast paths against a plain reading of its definition, forward and backward."""

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sightline.encoders.fusion_encoder import FusionEncoder, FusionEncoderConfig, Priors, Words
from sightline.encoders.fusion_explanation import explain

CONFIG = FusionEncoderConfig(token_dim=20, text_width=12, grid_height=3, grid_width=2, width=16, num_layers=2, num_heads=4, hidden_dim=24)
LENGTHS = (5, 1, 3, 4)


@pytest.fixture
def encoder() -> FusionEncoder:
    torch.manual_seed(0)
    encoder = FusionEncoder(CONFIG).double()
    torch.nn.init.normal_(encoder.head.weight)
    return encoder.eval()


def some_texts(lengths: tuple[int, ...] = LENGTHS, *, padded_to: int | None = None) -> Words:
    num_words = padded_to or max(lengths)
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randn(length, CONFIG.text_width, generator=generator, dtype=torch.float64) for length in lengths]
    hidden = torch.stack([functional.pad(row, (0, 0, 0, num_words - len(row)), value=7.0) for row in rows])
    mask = torch.arange(num_words) < torch.tensor(lengths)[:, None]
    return Words(hidden, mask)


def some_patches(encoder: FusionEncoder, num_images: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return encoder.project(torch.randn(num_images, CONFIG.num_patches, CONFIG.token_dim, generator=generator).double()).double()


def plain_logit(encoder: FusionEncoder, words: Tensor, patches: Tensor) -> Tensor:
    """One text without padding, (words, text_width), and one image, (patches, width): the definition, a word and a head at a time."""
    hidden = functional.layer_norm(words, words.shape[-1:])
    weights = encoder.alignment.weight(hidden)[:, 0].softmax(0)
    aligned = torch.zeros((), dtype=words.dtype)
    for word, weight in zip(functional.normalize(encoder.alignment.word(hidden), dim=-1), weights, strict=True):
        attended = (patches @ word * encoder.alignment.log_sharpness.exp()).softmax(0) @ patches
        aligned = aligned + weight * functional.cosine_similarity(word, attended, dim=0)
    tokens = encoder.text_projection(hidden)
    placed = encoder.patch_norm(patches) + encoder.patch_position
    for layer in encoder.layers:
        normed = layer.self_norm(tokens)
        tokens = tokens + plain_attention(layer.self_attention, normed, normed)
        tokens = tokens + plain_attention(layer.cross_attention, layer.cross_norm(tokens), placed)
        tokens = tokens + layer.feed_forward(layer.feed_norm(tokens))
    head: Tensor = encoder.head(encoder.head_norm(tokens[0]))[0]
    return encoder.alignment_scale.exp() * aligned + head


def plain_attention(attention: torch.nn.Module, tokens: Tensor, memory: Tensor) -> Tensor:
    queries = attention.query(tokens)  # type: ignore[operator]
    keys, values = attention.key_value(memory).chunk(2, dim=-1)  # type: ignore[operator]
    head_dim = CONFIG.width // CONFIG.num_heads
    outs = []
    for head in range(CONFIG.num_heads):
        part = slice(head * head_dim, (head + 1) * head_dim)
        outs.append((queries[:, part] @ keys[:, part].T / head_dim**0.5).softmax(dim=-1) @ values[:, part])
    out: Tensor = attention.out(torch.cat(outs, dim=-1))  # type: ignore[operator]
    return out


def test_the_grid_is_the_plain_definition_for_every_pair(encoder: FusionEncoder) -> None:
    texts, patches = some_texts(), some_patches(encoder)

    logits = encoder(texts, patches)

    plain = [
        torch.stack([plain_logit(encoder, texts.hidden_states[text, :length], image) for image in patches])
        for text, length in enumerate(LENGTHS)
    ]
    assert logits.shape == (len(LENGTHS), len(patches))
    torch.testing.assert_close(logits, torch.stack(plain).to(logits.dtype), atol=1e-5, rtol=1e-5)  # logits are float32


@pytest.mark.parametrize("path", ["grid", "pairs"])
def test_gradients_are_those_of_the_plain_definition(encoder: FusionEncoder, path: str) -> None:
    texts = some_texts()
    upstream = torch.randn(len(LENGTHS), 3, generator=torch.Generator().manual_seed(3))

    def gradients(logits: Tensor) -> dict[str, Tensor]:
        encoder.zero_grad()
        (logits * upstream.to(logits.dtype)).sum().backward()  # type: ignore[no-untyped-call]
        return {name: parameter.grad.clone() for name, parameter in encoder.named_parameters() if parameter.grad is not None}

    patches = some_patches(encoder)
    rows = [
        torch.stack([plain_logit(encoder, texts.hidden_states[text, :length], image) for image in patches])
        for text, length in enumerate(LENGTHS)
    ]
    plain = gradients(torch.stack(rows))
    patches = some_patches(encoder)
    if path == "grid":
        fast = gradients(encoder(texts, patches))
    else:
        t, i = torch.meshgrid(torch.arange(len(LENGTHS)), torch.arange(3), indexing="ij")
        pairs = encoder.forward_pairs(texts, patches, text_by_pair=t.flatten(), image_by_pair=i.flatten())
        fast = gradients(pairs.view(len(LENGTHS), 3))

    assert fast.keys() == plain.keys() == dict(encoder.named_parameters()).keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(fast[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_pairs_are_the_grid_at_their_places(encoder: FusionEncoder) -> None:
    texts, patches = some_texts(), some_patches(encoder)
    text_by_pair, image_by_pair = torch.tensor([3, 0, 0, 2, 3]), torch.tensor([1, 2, 2, 0, 0])

    pairs = encoder.forward_pairs(texts, patches, text_by_pair=text_by_pair, image_by_pair=image_by_pair)

    torch.testing.assert_close(pairs, encoder(texts, patches)[text_by_pair, image_by_pair], atol=1e-5, rtol=1e-5)


def test_padding_changes_nothing(encoder: FusionEncoder) -> None:
    patches = some_patches(encoder)
    torch.testing.assert_close(encoder(some_texts(padded_to=11), patches), encoder(some_texts(), patches), atol=1e-5, rtol=1e-5)


def test_a_fresh_encoder_is_alignment_alone(encoder: FusionEncoder) -> None:
    fresh = FusionEncoder(replace(CONFIG, num_layers=1)).double()
    texts, patches = some_texts(), some_patches(fresh)
    aligned = fresh.alignment(fresh.text_norm(texts.hidden_states), texts.mask, patches)

    torch.testing.assert_close(fresh(texts, patches), fresh.alignment_scale.exp().float() * aligned.float())
    assert aligned.abs().max() <= 1


def test_attention_that_is_shown_is_attention_that_was_used(encoder: FusionEncoder) -> None:
    layer, patches = encoder.layers[0], some_patches(encoder)
    memory = encoder.memories(patches)[0]
    tokens = encoder.text_projection(some_texts((4, 4, 4)).hidden_states)

    shown, probabilities = layer.read_patches_with_probabilities(tokens, memory)

    torch.testing.assert_close(shown, layer.read_patches(tokens, memory))
    assert probabilities.shape == (3, CONFIG.num_heads, 4, CONFIG.num_patches)
    torch.testing.assert_close(probabilities.sum(dim=-1), torch.ones(3, CONFIG.num_heads, 4).double())


def with_banks(encoder: FusionEncoder, texts: Words, patches: Tensor) -> FusionEncoder:
    """The same with these texts and pictures as banks, of which three quarters and a half are taken off."""
    hidden = encoder.text_norm(texts.hidden_states)
    words = functional.normalize(encoder.alignment.word(hidden), dim=-1)
    weights = encoder.alignment.word_weights(hidden, texts.mask).double()
    num_words = int(texts.mask.sum())
    config = replace(encoder.config, num_bank_words=num_words, num_bank_texts=len(words), num_bank_images=len(patches))
    text_by_word = torch.arange(len(words))[:, None].expand(texts.mask.shape)[texts.mask]
    banked = FusionEncoder(config).double().eval()
    banks = {
        "banks.words": words[texts.mask],
        "banks.word_weights": weights[texts.mask],
        "banks.text_by_word": text_by_word.double(),
        "banks.patches": patches,
        "banks.factors": torch.tensor([20.0, 10.0]).double(),
        "banks.strengths": torch.tensor([0.75, 0.5]).double(),
    }
    banked.load_state_dict(encoder.state_dict() | banks)
    return banked


@torch.no_grad()
def test_priors_are_the_log_mean_exp_of_alignments_with_the_banks(encoder: FusionEncoder) -> None:
    bank_texts, bank_patches = some_texts((2, 5, 3)), some_patches(encoder, 4).flip(0)
    texts, patches = some_texts(), some_patches(encoder)
    banked = with_banks(encoder, bank_texts, bank_patches)

    def alignment(one: Words, others: Tensor) -> Tensor:
        aligned: Tensor = encoder.alignment(encoder.text_norm(one.hidden_states), one.mask, others)  # (texts, images)
        return aligned.double()

    of_images = [0.75 * float((20 * column).exp().mean().log()) / 20 for column in alignment(bank_texts, patches).T]
    of_texts = [0.5 * float((10 * row).exp().mean().log()) / 10 for row in alignment(texts, bank_patches)]
    torch.testing.assert_close(banked.image_priors(patches), torch.tensor(of_images), check_dtype=False, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(banked.text_priors(texts), torch.tensor(of_texts), check_dtype=False, atol=1e-6, rtol=1e-5)
    banked.freeze(None)
    torch.testing.assert_close(banked.text_priors(texts), torch.tensor(of_texts), check_dtype=False, atol=1e-6, rtol=1e-5)
    taken_off = encoder.alignment_scale.exp() * (torch.tensor(of_images)[None] + torch.tensor(of_texts)[:, None])
    torch.testing.assert_close(banked(texts, patches), encoder(texts, patches) - taken_off, check_dtype=False, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_chosen_pairs_are_those_of_the_grid_with_banks_too(encoder: FusionEncoder) -> None:
    texts, patches = some_texts(), some_patches(encoder)
    banked = with_banks(encoder, some_texts((2, 5, 3)), some_patches(encoder, 4).flip(0))
    text_by_pair, image_by_pair = torch.tensor([0, 3, 1]), torch.tensor([2, 0, 1])
    pairs = banked.forward_pairs(texts, patches, text_by_pair=text_by_pair, image_by_pair=image_by_pair)
    torch.testing.assert_close(pairs, banked(texts, patches)[text_by_pair, image_by_pair], atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("num_layers", [0, 1, 2])
def test_texts_with_images_of_their_own_are_those_of_the_grid(num_layers: int) -> None:
    torch.manual_seed(0)
    encoder = FusionEncoder(replace(CONFIG, num_layers=num_layers)).double().eval()
    for layer_head in [encoder.head] if num_layers else []:
        torch.nn.init.normal_(layer_head.weight)
    banked = with_banks(encoder, some_texts((2, 5, 3)), some_patches(encoder, 4).flip(0))
    texts, patches = some_texts(), some_patches(encoder, 5)
    own = torch.tensor([[0, 1], [4, 4], [3, 0], [2, 1]])  # (texts, images)
    priors = Priors(banked.image_priors(patches)[own], banked.text_priors(texts))
    expected = banked(texts, patches).gather(1, own)
    torch.testing.assert_close(banked.forward_each(texts, patches[own], priors=priors), expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.01


@torch.no_grad()
def test_without_layers_alignment_is_all_there_is(encoder: FusionEncoder) -> None:
    bare = FusionEncoder(replace(CONFIG, num_layers=0)).double().eval()
    bare.load_state_dict({name: tensor for name, tensor in encoder.state_dict().items() if name in bare.state_dict()})
    torch.nn.init.zeros_(encoder.head.weight)
    texts, patches = some_texts(), some_patches(encoder)
    torch.testing.assert_close(bare(texts, patches), encoder(texts, patches), check_dtype=False)
    pairs = bare.forward_pairs(texts, patches, text_by_pair=torch.tensor([1, 0]), image_by_pair=torch.tensor([2, 1]))
    torch.testing.assert_close(pairs, bare(texts, patches)[[1, 0], [2, 1]], check_dtype=False)
    one = Words(texts.hidden_states[:1, : LENGTHS[0]], texts.mask[:1, : LENGTHS[0]])
    explained = explain(bare, one, patches[:1])
    assert explained.logit == pytest.approx(float(bare(one, patches[:1])[0, 0]), abs=1e-4)
    assert explained.relevance.shape == (LENGTHS[0], CONFIG.num_patches)


@torch.inference_mode()
@pytest.mark.parametrize("num_layers", [0, 2])
def test_asking_one_picture_many_texts_at_once_is_three_times_faster_than_one_by_one_with_the_same_ranking(num_layers: int) -> None:
    """As an image's texts are ranked: sizes of sightline-mini, 64 captions, processor time of one thread, the least of five."""
    torch.manual_seed(0)
    encoder = FusionEncoder(FusionEncoderConfig(token_dim=32, text_width=384, grid_height=7, grid_width=7, num_layers=num_layers)).eval()
    if num_layers:
        torch.nn.init.normal_(encoder.head.weight)
    texts = Words(torch.randn(64, 12, 384), torch.ones(64, 12, dtype=torch.bool))
    picture = functional.normalize(torch.randn(1, 49, 256), dim=-1)
    nothing = torch.zeros(64)

    def at_once() -> Tensor:
        logits: Tensor = encoder(texts, picture, priors=Priors(nothing[:1], nothing))
        return logits[:, 0]

    def one_by_one() -> Tensor:
        each = [Words(texts.hidden_states[row : row + 1], texts.mask[row : row + 1]) for row in range(64)]
        return torch.cat([encoder(one, picture, priors=Priors(nothing[:1], nothing[:1]))[:, 0] for one in each])

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert at_once().argsort().tolist() == one_by_one().argsort().tolist()
        assert _least_seconds(one_by_one) >= 3 * _least_seconds(at_once)
    finally:
        torch.set_num_threads(before)


def _least_seconds(ask: Callable[[], Tensor]) -> float:
    seconds = []
    for _ in range(5):
        started = time.thread_time()
        ask()
        seconds.append(time.thread_time() - started)
    return min(seconds)
