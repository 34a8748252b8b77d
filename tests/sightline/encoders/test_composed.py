"""A checkpoint of ours as an `Encoder`: shapes, order, and that no input knows of the others in its batch."""

import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from sightline.encoders.composed import TEXTS_PER_BATCH, ComposedEncoder, load_composed_encoder, squashed_pixels
from sightline.encoders.device import autocast_dtype
from sightline.encoders.load import bundled_folder
from sightline.encoders.packed_linear import PackedLinear
from sightline.errors import InvalidCheckpoint
from sightline.types import Modality
from tests.tiny_checkpoint import WORDS

# Half of bfloat16's 8 bits is 2e-3 of the largest entry; sums over a few layers add to it.
BATCH_TOLERANCE = 1e-2


def _pictures(num_pictures: int) -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [
        Image.fromarray(generator.integers(0, 256, (int(height), int(width), 3), dtype=np.uint8))
        for height, width in generator.integers(1, 90, (num_pictures, 2))
    ]


def _is_rows(embeddings: np.ndarray, *, shape: tuple[int, int]) -> None:
    assert embeddings.shape == shape
    assert embeddings.dtype == np.float32
    assert embeddings.flags.c_contiguous
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def test_pictures_give_rows_of_unit_length(tiny_encoder: ComposedEncoder) -> None:
    pixels = np.stack([tiny_encoder.prepare(image) for image in _pictures(5)])

    assert pixels.shape == (5, tiny_encoder.image_side, tiny_encoder.image_side, 3)
    assert pixels.dtype == np.uint8
    _is_rows(tiny_encoder.embed_pixels(pixels), shape=(5, tiny_encoder.embedding_dim))


def test_texts_embed_alike_before_and_after_a_picture_was_asked_for(tiny_encoder_path: Path) -> None:
    encoder = load_composed_encoder(tiny_encoder_path, name="tiny", device="cpu")
    before = encoder.embed_texts(list(WORDS))
    encoder.embed_pixels(np.stack([encoder.prepare(image) for image in _pictures(1)]))

    np.testing.assert_array_equal(encoder.embed_texts(list(WORDS)), before)


WORDS_ALONE = """
import sys
from sightline.encoders.load import load_encoder
load_encoder("sightline-mini", device="cpu").embed_texts(["red"])
print("timm" in sys.modules)
"""


def test_words_alone_never_import_timm() -> None:
    """It is half a second of every search that the command line makes, and building two networks more."""
    told = subprocess.run([sys.executable, "-c", WORDS_ALONE], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"


def test_what_was_loaded_for_a_modality_embeds_without_its_files(tiny_encoder_path: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_encoder_path, tmp_path / "copy")
    encoder = load_composed_encoder(folder, name="tiny", device="cpu")

    encoder.load(Modality.TEXT)
    next(folder.glob("weights-*")).unlink()

    _is_rows(encoder.embed_texts(["a dog"]), shape=(1, encoder.embedding_dim))
    with pytest.raises(InvalidCheckpoint):
        encoder.load(Modality.IMAGE)


def test_tokens_come_with_the_embeddings_and_pool_to_them(tiny_encoder: ComposedEncoder) -> None:
    pixels = np.stack([tiny_encoder.prepare(image) for image in _pictures(3)])

    embeddings, tokens = tiny_encoder.embed_pixels_with_tokens(pixels)

    np.testing.assert_allclose(embeddings, tiny_encoder.embed_pixels(pixels), atol=BATCH_TOLERANCE)
    rows, columns = tokens.grid[0]
    assert (tokens.grid == (rows, columns)).all()
    assert tokens.hidden_states.shape == (3, rows * columns, tiny_encoder.image_token_dim)
    assert tokens.hidden_states.std() > 0


def test_text_tokens_come_with_the_embeddings_and_end_where_the_text_ends(tiny_encoder: ComposedEncoder) -> None:
    texts = [WORDS[0], " ".join(WORDS[:5]), ""]

    embeddings, tokens = tiny_encoder.embed_texts_with_tokens(texts)

    np.testing.assert_array_equal(embeddings, tiny_encoder.embed_texts(texts))
    assert tokens.hidden_states.shape == (3, tokens.num_tokens.max(), tiny_encoder.text_token_dim)
    assert list(tokens.num_tokens) == [3, 7, 2]  # with the tokens at either end
    assert not tokens.hidden_states[~tokens.mask].any()
    assert tokens.hidden_states[tokens.mask].any(axis=1).all()


def test_the_bundled_encoder_has_a_grid_of_seven_by_seven() -> None:
    encoder = load_composed_encoder(bundled_folder(), name="sightline-mini", device="cpu")
    _, tokens = encoder.embed_pixels_with_tokens(encoder.prepare(_pictures(1)[0])[None])
    assert tokens.grid.tolist() == [[7, 7]]
    assert tokens.hidden_states.shape == (1, 49, 1984 + 1280)


def test_a_picture_embeds_alone_as_in_a_batch(tiny_encoder: ComposedEncoder) -> None:
    pixels = np.stack([tiny_encoder.prepare(image) for image in _pictures(7)])

    together = tiny_encoder.embed_pixels(pixels)
    alone = np.concatenate([tiny_encoder.embed_pixels(row[None]) for row in pixels])

    np.testing.assert_allclose(alone, together, atol=BATCH_TOLERANCE)


def test_what_prepare_gives_needs_no_copy_to_be_embedded(tiny_encoder: ComposedEncoder) -> None:
    """A read-only view and a mirrored one: torch warns of the first and refuses the second."""
    pixels = tiny_encoder.prepare(_pictures(1)[0])[None]
    assert not pixels.flags.writeable

    straight = tiny_encoder.embed_pixels(pixels)
    mirrored = tiny_encoder.embed_pixels(pixels[:, :, ::-1])

    np.testing.assert_array_equal(straight, tiny_encoder.embed_pixels(pixels.copy()))
    np.testing.assert_array_equal(mirrored, tiny_encoder.embed_pixels(pixels[:, :, ::-1].copy()))


def test_texts_keep_their_order_over_batches_of_other_lengths(tiny_encoder: ComposedEncoder) -> None:
    generator = np.random.default_rng(1)
    texts = [" ".join(generator.choice(WORDS, int(length))) for length in generator.integers(0, 15, TEXTS_PER_BATCH + 40)]

    together = tiny_encoder.embed_texts(texts)

    _is_rows(together, shape=(len(texts), tiny_encoder.embedding_dim))
    for place in (0, 1, 17, TEXTS_PER_BATCH - 1, TEXTS_PER_BATCH, len(texts) - 1):
        np.testing.assert_allclose(tiny_encoder.embed_texts([texts[place]])[0], together[place], atol=BATCH_TOLERANCE)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from(["a red ball", "dog", "", "the cat on the beach " * 3]), min_size=1, max_size=6), st.randoms())
def test_shuffled_texts_give_shuffled_rows(tiny_encoder: ComposedEncoder, texts: list[str], random: Random) -> None:
    order = list(range(len(texts)))
    random.shuffle(order)

    np.testing.assert_allclose(
        tiny_encoder.embed_texts([texts[place] for place in order]), tiny_encoder.embed_texts(texts)[order], atol=BATCH_TOLERANCE
    )


def test_nothing_gives_no_rows(tiny_encoder: ComposedEncoder) -> None:
    side = tiny_encoder.image_side

    _is_rows(tiny_encoder.embed_texts([]), shape=(0, tiny_encoder.embedding_dim))
    _is_rows(tiny_encoder.embed_pixels(np.zeros((0, side, side, 3), dtype=np.uint8)), shape=(0, tiny_encoder.embedding_dim))


def test_odd_texts_are_embedded(tiny_encoder: ComposedEncoder) -> None:
    _is_rows(tiny_encoder.embed_texts(["", " ", "\ud800", "dog " * 10_000, "红色的球"]), shape=(5, tiny_encoder.embedding_dim))
    assert tiny_encoder.is_truncated("dog " * 100)
    assert not tiny_encoder.is_truncated("a dog")


def test_embedding_leaves_no_graph_and_no_training_mode(tiny_encoder: ComposedEncoder) -> None:
    first = tiny_encoder.embed_texts(["a dog"])

    np.testing.assert_array_equal(tiny_encoder.embed_texts(["a dog"]), first)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 2), (300, 200), (64, 64)])
def test_a_picture_of_any_shape_is_squashed_whole(size: tuple[int, int]) -> None:
    pixels = squashed_pixels(Image.new("RGB", size, (10, 200, 30)), side=64)

    assert pixels.shape == (64, 64, 3)
    assert pixels.dtype == np.uint8
    assert (pixels == [10, 200, 30]).all()


def test_squashing_keeps_the_edges() -> None:
    image = Image.new("RGB", (400, 100), "black")
    image.paste("red", (0, 0, 40, 100))
    image.paste("blue", (360, 0, 400, 100))

    pixels = squashed_pixels(image, side=40)

    np.testing.assert_array_equal(pixels[20, 0], [255, 0, 0])
    np.testing.assert_array_equal(pixels[20, -1], [0, 0, 255])


@pytest.mark.gpu
def test_a_gpu_embeds_as_the_cpu_does(tiny_encoder: ComposedEncoder) -> None:

    with_gpu = load_composed_encoder(Path(tiny_encoder.name), name=tiny_encoder.name, device="cuda")
    pixels = np.stack([tiny_encoder.prepare(image) for image in _pictures(7)])

    np.testing.assert_allclose(with_gpu.embed_pixels(pixels), tiny_encoder.embed_pixels(pixels), atol=BATCH_TOLERANCE)
    np.testing.assert_allclose(with_gpu.embed_texts(["a dog"]), tiny_encoder.embed_texts(["a dog"]), atol=BATCH_TOLERANCE)


def test_weights_held_as_they_are_computed_with_change_no_number(tiny_encoder_path: Path) -> None:
    encoder = load_composed_encoder(tiny_encoder_path, name="tiny", device="cpu")
    found = encoder.embed_texts(["a red ball", "a dog"])
    held = [module for module in encoder._text_side().modules() if isinstance(module, nn.Linear | PackedLinear)]
    assert {type(module) for module in held} == {PackedLinear}
    plain = load_composed_encoder(tiny_encoder_path, name="tiny", device="cpu")
    plain._loaded_text_side = plain._checkpoint.load_text_side()  # in float32, which autocast casts at every call
    order_of_sums = 0 if autocast_dtype(torch.device("cpu")) else 1e-6
    np.testing.assert_allclose(plain.embed_texts(["a red ball", "a dog"]), found, rtol=0, atol=order_of_sums)
