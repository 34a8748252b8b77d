"""BLIP matches texts with pictures as transformers' own forward does, and opens a picture only when it has to."""

import json
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoTokenizer, BlipConfig, BlipForConditionalGeneration, BlipForImageTextRetrieval

from sightline.encoders.blip_matcher import (
    PAIRS_PER_BATCH,
    PICTURES_PER_BATCH,
    TEXT_TOKENS_PER_BATCH,
    BlipMatcher,
    KeyedPicture,
    RecentStates,
    _pair_batches,
    load_blip_matcher,
)
from sightline.encoders.hub_files import HubAccess
from sightline.encoders.load import load_picture_matcher
from sightline.errors import EncoderUnavailable, InvalidCheckpoint, InvalidSetting, UnreadableImage
from tests.sightline.encoders.small_hub import small_hub
from tests.sightline.encoders.tiny_hub_models import IMAGE_SIDE, MAX_TOKENS, PATCH_SIDE, save_blip, save_clip

TOLERANCE = 1e-5  # float32 sums in another order, where pairs stand in other batches
STATE_BYTES = ((IMAGE_SIDE // PATCH_SIDE) ** 2 + 1) * 32 * 4  # of one picture: patches and the class token, width 32, float32
TEXTS = [
    "a dog",
    "",
    "the cat on a sofa, and the dog on the cat",
    "A DOG!",
    "naïve café 日本 🐕",
    "  spaces   and\nlines ",
    "word " * 10_000,
]


@dataclass(frozen=True, slots=True)
class Reference:
    """Transformers' own classes over the same files."""

    model: Any
    image_processor: Any
    tokenizer: Any

    def pair_logit(self, text: str, image: Image.Image) -> float:
        """Of the whole forward for one text and one picture, neither padded nor kept."""
        tokens = self.tokenizer([text], truncation=True, max_length=MAX_TOKENS, return_tensors="pt", return_token_type_ids=False)
        with torch.inference_mode():
            scores = self.model(**tokens, **self.image_processor([image], return_tensors="pt"), use_itm_head=True).itm_score[0]
        return float(scores[1] - scores[0])

    def logits(self, texts: Sequence[str], images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """(texts, images), pair by pair."""
        return np.array([[self.pair_logit(text, image) for image in images] for text in texts], dtype=np.float32)


class Album:
    """Pictures that count how often each was opened."""

    def __init__(self, images: Sequence[Image.Image]) -> None:
        self.num_opened = [0] * len(images)
        self.pictures = [KeyedPicture(f"picture {number}", self._opener(number, image)) for number, image in enumerate(images)]

    def _opener(self, number: int, image: Image.Image) -> Callable[[], Image.Image]:
        def open_picture() -> Image.Image:
            self.num_opened[number] += 1
            return image

        return open_picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BLIP that tests may copy, but not change."""
    return save_blip(tmp_path_factory.mktemp("blip"))


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(
        model=BlipForImageTextRetrieval.from_pretrained(folder),  # in evaluation mode
        image_processor=AutoImageProcessor.from_pretrained(folder),  # type: ignore[no-untyped-call]
        tokenizer=AutoTokenizer.from_pretrained(folder),
    )


@pytest.fixture
def matcher(folder: Path) -> BlipMatcher:
    """One that has kept nothing yet."""
    return load_blip_matcher(str(folder), device="cpu")


def random_images(num_images: int) -> list[Image.Image]:
    """Noise, the hardest picture to resize alike, in every shape from a pixel to a banner."""
    generator = np.random.default_rng(0)
    shapes = [(32, 32), (40, 70), (200, 90), (1, 1), (7, 150), (64, 64)]
    return [Image.fromarray(generator.integers(0, 256, (*shapes[each % 6], 3), dtype=np.uint8)) for each in range(num_images)]


def random_texts(num_texts: int) -> list[str]:
    generator = np.random.default_rng(1)
    return [" ".join(generator.choice(["dog", "cat", "a", "on", "zq"], size=generator.integers(0, 9))) for _ in range(num_texts)]


def test_logits_are_those_of_transformers_pair_by_pair(matcher: BlipMatcher, reference: Reference) -> None:
    images = random_images(PICTURES_PER_BATCH + 3)  # more than one batch of pictures, and several of pairs
    expected = reference.logits(TEXTS, images)
    logits = matcher.match_logits(TEXTS, Album(images).pictures)
    assert logits.dtype == np.float32
    assert expected.std(axis=0).min() > 0.01  # the seeded network tells texts and pictures apart by far more than the tolerance
    assert expected.std(axis=1).min() > 0.01
    np.testing.assert_allclose(logits, expected, atol=TOLERANCE)


def test_pixels_are_those_of_the_processor_to_the_bit(matcher: BlipMatcher, reference: Reference) -> None:
    images = random_images(6)
    pixels = np.stack([matcher._image_input.prepare(image) for image in images])
    inputs = matcher._image_input.model_inputs(pixels, device=torch.device("cpu"))
    assert torch.equal(inputs["pixel_values"], reference.image_processor(images, return_tensors="pt")["pixel_values"])


def test_the_probability_is_the_softmax_of_the_two_outputs(matcher: BlipMatcher, reference: Reference) -> None:
    (image,) = random_images(1)
    inputs = reference.image_processor([image], return_tensors="pt")
    with torch.inference_mode():
        scores = reference.model(**reference.tokenizer(["a dog"], return_tensors="pt", return_token_type_ids=False), **inputs).itm_score
    probabilities = matcher.calibration.probabilities(matcher.match_logits(["a dog"], Album([image]).pictures))
    np.testing.assert_allclose(probabilities[0, 0], scores.softmax(dim=1)[0, 1].item(), atol=TOLERANCE)


def test_a_logit_does_not_depend_on_its_company(matcher: BlipMatcher, folder: Path) -> None:
    texts, images = random_texts(3 * PAIRS_PER_BATCH), random_images(PICTURES_PER_BATCH + 5)
    together = matcher.match_logits(texts, Album(images).pictures)
    alone = load_blip_matcher(str(folder), device="cpu")
    for row in range(0, len(texts), 17):
        for column, picture in enumerate(Album(images).pictures):
            np.testing.assert_allclose(alone.match_logits([texts[row]], [picture])[0, 0], together[row, column], atol=TOLERANCE)
    order = np.random.default_rng(2).permutation(len(texts))
    shuffled = matcher.match_logits([texts[row] for row in order], Album(images).pictures[::-1])
    np.testing.assert_allclose(shuffled, together[order][:, ::-1], atol=TOLERANCE)


@pytest.mark.parametrize("lengths", [[], [3], [512] * 9, [3, 512, 7, 40, 2], list(range(1, 200))])
@pytest.mark.parametrize("num_pictures", [1, 5, PICTURES_PER_BATCH])
def test_every_pair_is_in_one_bounded_batch(lengths: list[int], num_pictures: int) -> None:
    batches = list(_pair_batches(lengths, num_pictures=num_pictures))
    pairs = [pair for rows, columns in batches for pair in zip(rows, columns, strict=True)]
    assert sorted(pairs) == [(row, column) for row in range(len(lengths)) for column in range(num_pictures)]
    for rows, _ in batches:
        assert len(rows) <= PAIRS_PER_BATCH
        assert len(rows) * max(lengths[row] for row in rows) <= TEXT_TOKENS_PER_BATCH


def test_nothing_matches_to_an_empty_grid_and_opens_nothing(matcher: BlipMatcher) -> None:
    album = Album(random_images(2))
    assert matcher.match_logits([], album.pictures).shape == (0, 2)
    assert matcher.match_logits(["a dog"], []).shape == (1, 0)
    assert matcher.match_logits([], []).shape == (0, 0)
    assert album.num_opened == [0, 0]


def test_a_picture_is_opened_once_however_often_it_is_asked_for(matcher: BlipMatcher) -> None:
    album = Album(random_images(PICTURES_PER_BATCH + 2))
    first = matcher.match_logits(TEXTS, album.pictures)
    again = matcher.match_logits(TEXTS, album.pictures)
    matcher.match_logits(["another cat"], [album.pictures[0], album.pictures[0]])
    assert album.num_opened == [1] * len(album.pictures)
    np.testing.assert_array_equal(again, first)


def test_a_picture_that_is_named_twice_in_one_call_is_opened_once(matcher: BlipMatcher) -> None:
    album = Album(random_images(1))
    left, right = matcher.match_logits(["a dog"], album.pictures * 2)[0]
    assert album.num_opened == [1]
    np.testing.assert_allclose(left, right, atol=TOLERANCE)


def test_another_key_is_another_picture(matcher: BlipMatcher, reference: Reference) -> None:
    before, after = random_images(2)
    matcher.match_logits(["a dog"], [KeyedPicture("item 1, revision 1", lambda: before)])
    logits = matcher.match_logits(["a dog"], [KeyedPicture("item 1, revision 2", lambda: after)])
    np.testing.assert_allclose(logits, reference.logits(["a dog"], [after]), atol=TOLERANCE)


def test_a_bounded_cache_drops_what_was_asked_for_longest_ago(folder: Path, reference: Reference) -> None:
    matcher = load_blip_matcher(str(folder), device="cpu", state_cache_bytes=3 * STATE_BYTES)
    images = random_images(4)
    album = Album(images)
    expected = reference.logits(["a dog"], images)
    for column in (0, 1, 2, 0, 3, 0, 1):  # 3 drops 1, which has to be opened again and drops 2
        logits = matcher.match_logits(["a dog"], [album.pictures[column]])
        np.testing.assert_allclose(logits[0, 0], expected[0, column], atol=TOLERANCE)
        assert matcher._recent_states.size_bytes <= 3 * STATE_BYTES
    assert album.num_opened == [1, 2, 1, 1]


def test_more_pictures_than_the_cache_holds_are_matched_all_the_same(folder: Path, reference: Reference) -> None:
    images = random_images(PICTURES_PER_BATCH + 2)
    expected = reference.logits(["a dog", "the cat"], images)
    for num_kept in (0, 1, 3):
        matcher = load_blip_matcher(str(folder), device="cpu", state_cache_bytes=num_kept * STATE_BYTES)
        album = Album(images)
        np.testing.assert_allclose(matcher.match_logits(["a dog", "the cat"], album.pictures), expected, atol=TOLERANCE)
        assert album.num_opened == [1] * len(images)
        assert matcher._recent_states.size_bytes == num_kept * STATE_BYTES


def test_kept_states_are_counted_by_what_they_hold() -> None:
    recent = RecentStates(max_bytes=100)
    recent.keep("a", torch.zeros(10))
    recent.keep("a", torch.zeros(20))  # two threads read the same picture
    assert recent.size_bytes == 80
    recent.keep("too large", torch.zeros(26))
    assert recent.size_bytes == 80
    assert recent.get("too large") is None
    recent.keep("b", torch.zeros(6))
    assert recent.get("a") is None
    assert recent.size_bytes == 24


def test_states_of_a_batch_are_kept_without_the_batch(matcher: BlipMatcher) -> None:
    matcher.match_logits(["a dog"], Album(random_images(4)).pictures)
    kept = matcher._recent_states.get("picture 0")
    assert kept is not None
    assert kept.untyped_storage().nbytes() == STATE_BYTES


def test_a_picture_that_cannot_be_read_says_so_and_the_rest_can_be_asked_for(matcher: BlipMatcher, reference: Reference) -> None:
    images = random_images(PICTURES_PER_BATCH + 3)
    album = Album(images)
    broken = KeyedPicture("broken", lambda: raise_unreadable("holiday.jpg"))
    with pytest.raises(UnreadableImage, match=r"holiday\.jpg: cut short"):
        matcher.match_logits(["a dog"], [*album.pictures, broken])
    logits = matcher.match_logits(["a dog"], album.pictures)
    np.testing.assert_allclose(logits, reference.logits(["a dog"], images), atol=TOLERANCE)
    assert album.num_opened[:PICTURES_PER_BATCH] == [1] * PICTURES_PER_BATCH  # of the batch before


def raise_unreadable(name: str) -> Image.Image:
    raise UnreadableImage(name, reason="cut short")


def test_threads_may_share_a_matcher(folder: Path) -> None:
    images = random_images(5)
    expected = load_blip_matcher(str(folder), device="cpu").match_logits(TEXTS, Album(images).pictures)
    shared = load_blip_matcher(str(folder), device="cpu", state_cache_bytes=2 * STATE_BYTES)
    together = threading.Barrier(8)

    def ask(_: int) -> NDArray[np.float32]:
        together.wait()
        return shared.match_logits(TEXTS, Album(images).pictures)

    with ThreadPoolExecutor(8) as pool:
        for logits in pool.map(ask, range(8)):
            np.testing.assert_allclose(logits, expected, atol=TOLERANCE)
    assert shared._recent_states.size_bytes == 2 * STATE_BYTES


def test_the_matcher_tells_which_texts_it_cuts(matcher: BlipMatcher) -> None:
    assert not matcher.is_truncated("a dog " * ((MAX_TOKENS - 2) // 2))
    assert matcher.is_truncated("a dog " * (MAX_TOKENS // 2))
    assert matcher.is_truncated("a" * 1_000_000)


def test_the_order_is_by_logit_and_similarity(matcher: BlipMatcher) -> None:
    assert matcher.combination.text_to_image == matcher.combination.image_to_text == 1.0
    assert (matcher.calibration.slope, matcher.calibration.intercept) == (1.0, 0.0)


def test_the_fingerprint_is_of_the_files_and_not_of_their_place(matcher: BlipMatcher, folder: Path, tmp_path: Path) -> None:
    moved = load_picture_matcher(str(shutil.copytree(folder, tmp_path / "moved")), device="cpu")
    assert moved.fingerprint == matcher.fingerprint
    assert moved.name == str((tmp_path / "moved").resolve())
    others = {
        "weights": save_blip(tmp_path / "weights", seed=5),
        "processor": changed(folder, tmp_path / "processor", edit_json("preprocessor_config.json", lambda each: each.update(resample=2))),
        "tokeniser": changed(folder, tmp_path / "tokeniser", edit_json("tokenizer_config.json", lambda each: each.update(note="other"))),
    }
    fingerprints = {load_blip_matcher(str(other), device="cpu").fingerprint for other in others.values()}
    assert len(fingerprints | {matcher.fingerprint}) == 4


def test_a_vocabulary_of_bert_alone_is_read_as_well(matcher: BlipMatcher, folder: Path, tmp_path: Path) -> None:
    """As older checkpoints have it: `vocab.txt` and no `tokenizer.json`."""

    def write_vocabulary(copy: Path) -> None:
        vocabulary = json.loads((copy / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
        (copy / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=lambda piece: vocabulary[piece])) + "\n", encoding="utf-8")
        (copy / "tokenizer.json").unlink()

    older = load_blip_matcher(str(changed(folder, tmp_path / "older", write_vocabulary)), device="cpu")
    images = random_images(2)
    expected = matcher.match_logits(TEXTS, Album(images).pictures)
    np.testing.assert_allclose(older.match_logits(TEXTS, Album(images).pictures), expected, atol=TOLERANCE)


def test_a_model_is_had_from_a_hub_once_and_then_offline(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    shutil.copytree(folder, tmp_path / "hub" / "blip")
    with small_hub(tmp_path / "hub") as server:
        online = HubAccess(endpoint=server.endpoint, cache_folder=tmp_path / "cache", is_offline=False, timeout_s=2.0)
        downloaded = load_blip_matcher("tiny/blip", device="cpu", hub=online)
    offline = HubAccess(endpoint="http://127.0.0.1:9", cache_folder=tmp_path / "cache", is_offline=True)
    again = load_blip_matcher("tiny/blip", device="cpu", hub=offline)
    assert downloaded.name == again.name == "tiny/blip"
    assert downloaded.fingerprint == again.fingerprint == load_blip_matcher(str(folder), device="cpu").fingerprint


def test_offline_the_message_says_what_where_and_what_to_do(tmp_path: Path) -> None:
    hub = HubAccess(endpoint="http://127.0.0.1:9", cache_folder=tmp_path, is_offline=True)
    with pytest.raises(EncoderUnavailable) as refusal:
        load_blip_matcher("Salesforce/blip-itm-base-coco", device="cpu", hub=hub)
    for part in (
        "fusion encoder 'Salesforce/blip-itm-base-coco' is not to be had",
        str(tmp_path),
        "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids",
        "`hf download Salesforce/blip-itm-base-coco`",
        "pass the folder of a model",
    ):
        assert part in str(refusal.value)


def test_a_network_of_another_kind_is_refused_with_what_is_wanted(tmp_path: Path) -> None:
    clip = save_clip(tmp_path / "clip")
    with pytest.raises(EncoderUnavailable, match=r"clip' is a 'clip' network; .* BLIP .* such as Salesforce/blip-itm-base-coco"):
        load_blip_matcher(str(clip), device="cpu")


def changed(folder: Path, copy: Path, change: Callable[[Path], object]) -> Path:
    """A copy of the model after `change`."""
    shutil.copytree(folder, copy)
    change(copy)
    return copy


def edit_json(name: str, edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    """A change to one JSON file of a model."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        edit(content)
        (folder / name).write_text(json.dumps(content), encoding="utf-8")

    return change


def make_it_a_captioner(folder: Path) -> None:
    """BLIP for captions has the same `model_type`."""
    BlipForConditionalGeneration(BlipConfig.from_pretrained(folder)).save_pretrained(folder)


def cut_the_weights(folder: Path) -> None:
    """A download that was broken off."""
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])


def fill_with_nan(folder: Path) -> None:
    """Weights of a training that diverged."""
    weights = load_file(folder / "model.safetensors")
    save_file({name: torch.full_like(tensor, torch.nan) for name, tensor in weights.items()}, folder / "model.safetensors")


def lose_the_head(folder: Path) -> None:
    """All of it but one tensor."""
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor for name, tensor in weights.items() if name != "itm_head.bias"}, folder / "model.safetensors")


BAD_MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "configuration that is no JSON": (lambda folder: (folder / "config.json").write_text("{"), "names no model type"),
    "BLIP for captions": (
        make_it_a_captioner,
        r"itm_head.bias among them; .* a BLIP for captions or questions, which has no matching head",
    ),
    "no matching head": (lose_the_head, "lack 1 of the network's tensors, itm_head.bias"),
    "weights cut short": (cut_the_weights, "cannot be loaded"),
    "weights that are no numbers": (fill_with_nan, "is not a number"),
    "weights of another width": (
        edit_json("config.json", lambda config: config["text_config"].update(intermediate_size=48)),
        "cannot be loaded",
    ),
    "broken tokeniser": (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot be loaded"),
    "processor of another size": (
        edit_json("preprocessor_config.json", lambda config: config.update(size={"height": 16, "width": 16})),
        r"gives uint8 \(3, 16, 16\) where the network reads uint8 \(3, 32, 32\)",
    ),
    "tokeniser with more tokens than the network": (
        edit_json("tokenizer.json", lambda tokenizer: tokenizer["model"]["vocab"].update(zebra=70)),
        r"writes token 70 and the network has 65",
    ),
    "no tokeniser": (lambda folder: (folder / "tokenizer.json").unlink(), "lacks a tokeniser"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "lacks weights"),
    "no processor": (lambda folder: (folder / "preprocessor_config.json").unlink(), "lacks an image processor"),
}


@pytest.mark.parametrize("defect", list(BAD_MODELS))
def test_files_that_make_no_model_are_refused_with_their_folder(defect: str, folder: Path, tmp_path: Path) -> None:
    change, reason = BAD_MODELS[defect]
    copy = changed(folder, tmp_path / "bad", change)
    with pytest.raises(InvalidCheckpoint, match=reason) as refusal:
        load_blip_matcher(str(copy), device="cpu")
    assert str(copy) in str(refusal.value)
    assert str(refusal.value).startswith("fusion encoder ")


def test_a_device_that_is_not_there_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting):
        load_picture_matcher(str(tmp_path / "nowhere"), device="gpu")


@pytest.mark.gpu
def test_a_gpu_agrees_with_the_cpu_up_to_half_precision(folder: Path, matcher: BlipMatcher) -> None:
    on_gpu = load_blip_matcher(str(folder), device="cuda")
    images = random_images(PICTURES_PER_BATCH + 1)
    expected = matcher.match_logits(TEXTS, Album(images).pictures)
    logits = on_gpu.match_logits(TEXTS, Album(images).pictures)
    assert on_gpu.fingerprint == matcher.fingerprint
    np.testing.assert_allclose(logits, expected, atol=0.03 * np.abs(expected).max())  # bfloat16 keeps 8 bits, through two layers
