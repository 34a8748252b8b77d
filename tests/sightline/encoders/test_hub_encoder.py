"""A model of the hub embeds as transformers' own forward does, on tiny seeded models of every family."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
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
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, BertConfig

from sightline.encoders.encoder import Encoder
from sightline.encoders.hub_encoder import MODEL_CLASS_BY_TYPE, HubEncoder, load_hub_encoder
from sightline.encoders.hub_texts import LEGACY_EOS_TOKEN_ID
from sightline.encoders.tokens import words_of
from sightline.errors import EncoderUnavailable, InvalidCheckpoint, InvalidSetting
from tests.sightline.encoders import tiny_hub_models
from tests.sightline.encoders.tiny_hub_models import IMAGE_SIDE, MAX_TOKENS, PATCH_SIDE, save_clip

TOLERANCE = 1e-5  # float32 sums in another order, where texts stand in other batches
SAVE_BY_FAMILY: dict[str, Callable[[Path], Path]] = {
    "clip": save_clip,
    "clip with the legacy end of text": lambda folder: save_clip(folder, eos_token_id=LEGACY_EOS_TOKEN_ID),
    "siglip": tiny_hub_models.save_siglip,
    "siglip 2 of one resolution": tiny_hub_models.save_siglip2_fixed,
    "siglip 2 naflex": tiny_hub_models.save_siglip2_naflex,
}
TEXTS = [
    "a dog",
    "two cats sleep on a red sofa, and a third one watches them from the window",
    "",
    "cat",
    "  spaces   and\nlines ",
    "naïve café 日本 🐕",
    "zebras, vixens & jackdaws!",
    "word " * 10_000,
]


@dataclass(frozen=True, slots=True)
class Case:
    """One tiny model: our encoder, and transformers' own classes over the same files."""

    family: str
    folder: Path
    encoder: HubEncoder
    model: Any
    image_processor: Any
    tokenizer: Any

    def reference(self, texts: list[str], images: list[Image.Image]) -> Any:
        """The model's own output, pictures one by one, every text padded to the full length."""
        tokens = self.tokenizer(texts, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        pixels = self.image_processor(images, return_tensors="pt")
        with torch.inference_mode():
            return self.model(**tokens, **pixels)


def case_of(family: str, folder: Path) -> Case:
    """Loads what `folder` holds both ways."""
    return Case(
        family=family,
        folder=folder,
        encoder=load_hub_encoder(str(folder), device="cpu"),
        model=AutoModel.from_pretrained(folder).eval(),
        image_processor=AutoImageProcessor.from_pretrained(folder),  # type: ignore[no-untyped-call]
        tokenizer=AutoTokenizer.from_pretrained(folder),
    )


@pytest.fixture(scope="module", params=list(SAVE_BY_FAMILY))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Each family in turn."""
    return case_of(request.param, SAVE_BY_FAMILY[request.param](tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP model that tests may copy, but not change."""
    return save_clip(tmp_path_factory.mktemp("clip"))


def random_images() -> list[Image.Image]:
    """Noise, the hardest picture to resize alike, in every shape from a pixel to a banner."""
    generator = np.random.default_rng(0)
    shapes = [(32, 32), (40, 70), (200, 90), (1, 1), (7, 150), (64, 64)]
    return [Image.fromarray(generator.integers(0, 256, (*shape, 3), dtype=np.uint8)) for shape in shapes]


def embed_images(encoder: Encoder, images: list[Image.Image]) -> NDArray[np.float32]:
    """Prepared one by one and stacked, as the indexer does."""
    return encoder.embed_pixels(np.stack([encoder.prepare(image) for image in images]))


def test_texts_embed_as_in_transformers(case: Case) -> None:
    reference = case.reference(lowered(case, TEXTS), [Image.new("RGB", (8, 8))]).text_embeds
    np.testing.assert_allclose(case.encoder.embed_texts(TEXTS), reference.numpy(), atol=TOLERANCE)


def test_pictures_embed_as_in_transformers(case: Case) -> None:
    reference = case.reference(["a"], random_images()).image_embeds
    np.testing.assert_allclose(embed_images(case.encoder, random_images()), reference.numpy(), atol=TOLERANCE)


def test_similarities_are_the_logits_of_transformers(case: Case) -> None:
    output = case.reference(lowered(case, TEXTS), random_images())
    similarities = case.encoder.embed_texts(TEXTS) @ embed_images(case.encoder, random_images()).T
    logits = similarities * case.model.logit_scale.exp().item()
    if hasattr(case.model, "logit_bias"):
        logits = logits + case.model.logit_bias.item()
    np.testing.assert_allclose(logits, output.logits_per_text.numpy(), atol=2e-4)  # the tolerance above times a scale of 14


def test_pixels_are_those_of_the_processor_to_the_bit(case: Case) -> None:
    reference = case.image_processor(random_images(), return_tensors="pt")
    pixels = np.stack([case.encoder.prepare(image) for image in random_images()])
    inputs = case.encoder._image_input.model_inputs(pixels, device=torch.device("cpu"))
    assert set(inputs) == set(reference)
    for name, tensor in reference.items():
        assert torch.equal(inputs[name], tensor), name


def test_embeddings_are_unit_rows_of_float32(case: Case) -> None:
    for embeddings in (case.encoder.embed_texts(TEXTS), embed_images(case.encoder, random_images())):
        assert embeddings.dtype == np.float32
        assert embeddings.flags.c_contiguous
        assert embeddings.shape[1] == case.encoder.embedding_dim
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=TOLERANCE)


def test_nothing_embeds_to_no_rows(case: Case) -> None:
    assert case.encoder.embed_texts([]).shape == (0, case.encoder.embedding_dim)
    no_pixels = np.stack([case.encoder.prepare(Image.new("RGB", (8, 8)))])[:0]
    assert case.encoder.embed_pixels(no_pixels).shape == (0, case.encoder.embedding_dim)


def test_every_picture_is_prepared_to_one_shape_and_dtype(case: Case) -> None:
    prepared = [case.encoder.prepare(image) for image in random_images()]
    assert len({(pixels.shape, pixels.dtype) for pixels in prepared}) == 1


def test_a_text_embeds_alike_in_any_company_and_order(case: Case) -> None:
    generator = np.random.default_rng(1)
    words = ["dog", "cat", "beach", "a", "the", "sofa"]
    texts = [" ".join(generator.choice(words, size=generator.integers(0, 20))) for _ in range(2500)]  # more than one batch
    order = generator.permutation(len(texts))
    together = case.encoder.embed_texts(texts)
    shuffled = case.encoder.embed_texts([texts[position] for position in order])
    np.testing.assert_allclose(shuffled, together[order], atol=TOLERANCE)
    alone = np.concatenate([case.encoder.embed_texts([text]) for text in texts[:20]])
    np.testing.assert_allclose(alone, together[:20], atol=TOLERANCE)


def test_more_pictures_than_a_batch_embed_in_order(case: Case) -> None:
    pixels = np.stack([case.encoder.prepare(image) for image in random_images()])
    once = case.encoder.embed_pixels(pixels)
    many = case.encoder.embed_pixels(np.concatenate([pixels] * 50))
    np.testing.assert_allclose(many, np.concatenate([once] * 50), atol=TOLERANCE)


def test_threads_may_share_an_encoder(case: Case) -> None:
    images = random_images()
    expected_texts, expected_images = case.encoder.embed_texts(TEXTS), embed_images(case.encoder, images)
    with ThreadPoolExecutor(8) as pool:
        texts = [pool.submit(case.encoder.embed_texts, TEXTS) for _ in range(16)]
        pictures = [pool.submit(embed_images, case.encoder, images) for _ in range(16)]
    for future in texts:
        np.testing.assert_allclose(future.result(), expected_texts, atol=TOLERANCE)
    for picture in pictures:
        np.testing.assert_allclose(picture.result(), expected_images, atol=TOLERANCE)


def test_capitals_make_no_difference(case: Case) -> None:
    capitals, small = case.encoder.embed_texts(["A DOG on the Beach", "a dog on the beach"])
    np.testing.assert_allclose(capitals, small, atol=TOLERANCE)


def test_a_text_with_half_a_character_is_embedded(case: Case) -> None:
    broken, question = case.encoder.embed_texts(["dog \ud83d", "dog ?"])
    np.testing.assert_allclose(broken, question, atol=TOLERANCE)


def test_the_encoder_tells_which_texts_it_cuts(case: Case) -> None:
    assert not case.encoder.is_truncated("a dog")
    assert case.encoder.is_truncated("zq " * (MAX_TOKENS + 1))
    assert case.encoder.is_truncated("a" * 1_000_000)
    longest = next(n for n in range(1, 40) if case.encoder.is_truncated("zq " * n)) - 1
    rows = case.encoder.embed_texts(["zq " * longest, "zq " * longest + "dog " * 30])
    assert case.encoder.is_truncated("zq " * longest + "dog " * 30)
    assert rows.shape == (2, case.encoder.embedding_dim)


def test_image_tokens_are_the_patches_before_pooling(case: Case) -> None:
    images = random_images()
    prepared = np.stack([case.encoder.prepare(image) for image in images])
    embeddings, tokens = case.encoder.embed_pixels_with_tokens(prepared)
    np.testing.assert_array_equal(embeddings, case.encoder.embed_pixels(prepared))
    assert tokens.hidden_states.shape[2] == case.encoder.image_token_dim
    pixels = case.image_processor(images, return_tensors="pt")
    with torch.inference_mode():
        hidden = case.model.vision_model(**pixels).last_hidden_state.numpy()
    if "clip" in case.family:
        hidden = hidden[:, 1:]  # the class token is no patch
    np.testing.assert_allclose(tokens.hidden_states, hidden, atol=TOLERANCE)
    if "naflex" in case.family:
        assert tokens.grid.tolist() == pixels["spatial_shapes"].tolist()
    else:
        assert (tokens.grid == IMAGE_SIDE // PATCH_SIDE).all()
    assert (tokens.grid.prod(axis=1) <= tokens.hidden_states.shape[1]).all()


def test_text_tokens_are_the_hidden_states_before_pooling(case: Case) -> None:
    embeddings, tokens = case.encoder.embed_texts_with_tokens(TEXTS)
    np.testing.assert_array_equal(embeddings, case.encoder.embed_texts(TEXTS))
    assert tokens.hidden_states.shape[2] == case.encoder.text_token_dim
    inputs = case.tokenizer(lowered(case, TEXTS), padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
    with torch.inference_mode():
        hidden = case.model.text_model(**inputs).last_hidden_state.numpy()
    for row, num_tokens, expected in zip(tokens.hidden_states, tokens.num_tokens, hidden, strict=True):
        np.testing.assert_allclose(row[:num_tokens], expected[:num_tokens], atol=TOLERANCE)
        assert not row[num_tokens:].any()


def test_every_token_says_which_characters_it_stands_for(case: Case) -> None:
    for text in (TEXTS[0], "zq " * (MAX_TOKENS + 5)):
        spans = case.encoder.token_spans(text)
        assert len(spans) == case.encoder.embed_texts_with_tokens([text])[1].num_tokens[0]
        found = [span for span in spans if span is not None]
        assert found == sorted(found)
        assert all(text[start:end] for start, end in found)
    assert [word.text for word in words_of(TEXTS[0], case.encoder.token_spans(TEXTS[0]))] == TEXTS[0].split()


def test_the_box_that_is_seen_is_what_moves_the_pixels(case: Case) -> None:
    """Painting over what lies outside changes nothing; painting over what lies inside does."""
    generator = np.random.default_rng(0)
    original = generator.integers(0, 256, (60, 120, 3), dtype=np.uint8)
    box = case.encoder.seen_box(120, 60)
    seen = np.zeros((60, 120), dtype=np.bool_)
    margin = 4  # pixels that a resampling filter reaches beyond
    seen[:, max(0, round(box.left) - margin) : round(box.right) + margin] = True
    outside, inside = original.copy(), original.copy()
    outside[~seen] = 0
    inside[seen] = 0
    expected = case.encoder.prepare(Image.fromarray(original))
    np.testing.assert_array_equal(case.encoder.prepare(Image.fromarray(outside)), expected)
    assert (case.encoder.prepare(Image.fromarray(inside)) != expected).any()
    assert (box.right - box.left < 120) == ("clip" in case.family)


def test_a_family_is_loaded_by_folder_under_its_absolute_path(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(case.folder.parent)
    by_relative_path = load_hub_encoder(case.folder.name, device="cpu")
    assert by_relative_path.name == case.encoder.name == str(case.folder.resolve())
    assert by_relative_path.fingerprint == case.encoder.fingerprint


def test_pickled_weights_are_read_where_there_are_no_others(clip_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(clip_folder, tmp_path / "pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    expected = load_hub_encoder(str(clip_folder), device="cpu").embed_texts(TEXTS)
    np.testing.assert_allclose(load_hub_encoder(str(folder), device="cpu").embed_texts(TEXTS), expected, atol=TOLERANCE)


def test_weights_in_shards_are_read(clip_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(clip_folder, tmp_path / "shards")
    (folder / "model.safetensors").unlink()
    AutoModel.from_pretrained(clip_folder).save_pretrained(folder, max_shard_size="60KB")
    assert not (folder / "model.safetensors").exists()
    expected = load_hub_encoder(str(clip_folder), device="cpu").embed_texts(TEXTS)
    np.testing.assert_allclose(load_hub_encoder(str(folder), device="cpu").embed_texts(TEXTS), expected, atol=TOLERANCE)


@pytest.mark.gpu
def test_a_gpu_agrees_with_the_cpu_up_to_half_precision(case: Case) -> None:
    on_gpu = load_hub_encoder(str(case.folder), device="cuda")
    assert on_gpu.fingerprint == case.encoder.fingerprint
    for ours, theirs in (
        (on_gpu.embed_texts(TEXTS), case.encoder.embed_texts(TEXTS)),
        (embed_images(on_gpu, random_images()), embed_images(case.encoder, random_images())),
    ):
        assert ((ours * theirs).sum(axis=1) > 0.999).all()  # bfloat16 keeps 8 bits


def copy_with(clip_folder: Path, folder: Path, change: Callable[[Path], object]) -> str:
    """A copy of the model after `change`, as a spec."""
    shutil.copytree(clip_folder, folder)
    change(folder)
    return str(folder)


def edit_json(name: str, edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    """A change to one JSON file of a model."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        edit(content)
        (folder / name).write_text(json.dumps(content), encoding="utf-8")

    return change


def drop_a_tensor(folder: Path) -> None:
    """Half of a model: what a text encoder saved alone looks like."""
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor for name, tensor in weights.items() if "text_projection" not in name}, folder / "model.safetensors")


def cut_the_weights(folder: Path) -> None:
    """A download that was broken off."""
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])


def fill_with_nan(folder: Path) -> None:
    """Weights of a training that diverged."""
    weights = load_file(folder / "model.safetensors")
    save_file({name: torch.full_like(tensor, torch.nan) for name, tensor in weights.items()}, folder / "model.safetensors")


BAD_MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "configuration that is no JSON": (lambda folder: (folder / "config.json").write_text("{"), "names no model type"),
    "configuration without a type": (edit_json("config.json", lambda config: config.pop("model_type")), "names no model type"),
    "configuration that is a list": (lambda folder: (folder / "config.json").write_text("[]"), "names no model type"),
    "broken tokeniser": (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot be loaded"),
    "weights cut short": (cut_the_weights, "cannot be loaded"),
    "half of a model": (drop_a_tensor, "lack 1 of the network's tensors, text_projection.weight"),
    "weights that are no numbers": (fill_with_nan, "is not a number"),
    "weights of another width": (edit_json("config.json", lambda config: config.update(projection_dim=7)), "cannot be loaded"),
    "end of text that is never written": (
        edit_json("config.json", lambda config: config["text_config"].update(eos_token_id=5)),
        "pools a text at token 5, which the tokeniser never writes",
    ),
    "processor of another size": (
        edit_json("preprocessor_config.json", lambda config: config.update(crop_size={"height": 16, "width": 16})),
        r"gives uint8 \(3, 16, 16\) where the network reads uint8 \(3, 32, 32\)",
    ),
    "processor that crops nothing": (
        edit_json("preprocessor_config.json", lambda config: config.update(do_center_crop=False)),
        r"gives uint8 \(3, 32, 64\)",
    ),
    "no tokeniser": (lambda folder: (folder / "tokenizer.json").unlink(), "lacks a tokeniser"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "lacks weights"),
    "no processor": (lambda folder: (folder / "preprocessor_config.json").unlink(), "lacks an image processor"),
}


@pytest.mark.parametrize("defect", list(BAD_MODELS))
def test_files_that_make_no_model_are_refused_with_their_folder(defect: str, clip_folder: Path, tmp_path: Path) -> None:
    change, reason = BAD_MODELS[defect]
    spec = copy_with(clip_folder, tmp_path / "bad", change)
    with pytest.raises(InvalidCheckpoint, match=reason) as refusal:
        load_hub_encoder(spec, device="cpu")
    assert spec in str(refusal.value)


def test_a_model_of_another_kind_is_refused_with_the_kinds_there_are(clip_folder: Path, tmp_path: Path) -> None:
    spec = copy_with(clip_folder, tmp_path / "bert", lambda folder: BertConfig().save_pretrained(folder))
    with pytest.raises(EncoderUnavailable, match=r"is a 'bert' network; Sightline runs the types clip, siglip, siglip2"):
        load_hub_encoder(spec, device="cpu")


def test_a_device_that_is_not_there_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting):
        load_hub_encoder(str(tmp_path / "nowhere"), device="gpu")


def test_loading_prints_nothing(clip_folder: Path) -> None:
    program = f"""
from sightline.encoders.hub_encoder import load_hub_encoder
from sightline.errors import EncoderUnavailable
load_hub_encoder({str(clip_folder)!r}, device="cpu").embed_texts(["a dog", "word " * 1000])
try:
    load_hub_encoder("nobody/nothing", device="cpu")
except EncoderUnavailable as error:
    print(error)
"""
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(clip_folder / "no cache"), "PYTHONPATH": ".", "PATH": ""}
    ran = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert ran.stderr == ""
    assert ran.stdout.count("\n") == 1
    assert ran.stdout.startswith("encoder 'nobody/nothing' is not to be had")


def lowered(case: Case, texts: list[str]) -> list[str]:
    """What transformers has to be given: it does not put SigLIP 2's texts of one resolution in lower case, as their training did."""
    return [text.lower() for text in texts] if case.family == "siglip 2 of one resolution" else texts


def test_the_page_names_every_type_of_network() -> None:
    page = (Path(__file__).parents[3] / "docs" / "encoders.md").read_text(encoding="utf-8")
    assert all(f"| `{model_type}` |" in page for model_type in MODEL_CLASS_BY_TYPE)
