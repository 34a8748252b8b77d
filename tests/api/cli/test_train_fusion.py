"""`sightline train fusion` from pictures on disk to a fusion encoder that matches."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from api.cli import main
from api.exit_codes import ExitCode, exit_code_of
from sightline.encoders.checkpoint import load_checkpoint
from sightline.encoders.composed import ComposedEncoder
from sightline.encoders.fusion_checkpoint import FUSION_WEIGHTS, load_fusion_checkpoint
from sightline.encoders.load import load_encoder
from sightline.encoders.matcher import check_fits
from sightline.errors import EncoderMismatch, InvalidCheckpoint, InvalidTraining
from tests.sightline.encoders.tiny_hub_models import save_clip, save_siglip2_naflex
from tests.tiny_checkpoint import WORDS

COLOURS = {"red": (220, 30, 30), "green": (20, 200, 40), "blue": (30, 40, 220), "yellow": (230, 220, 20)}


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures of one colour each, a caption beside each."""
    folder = tmp_path_factory.mktemp("captioned")
    for number in range(40):
        name, colour = list(COLOURS.items())[number % len(COLOURS)]
        shade = tuple(max(0, part - number) for part in colour)
        Image.new("RGB", (40 + number, 50), shade).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(f"a {name} {WORDS[8 + number % 4]}\n")
    return folder


def arguments(source: Path, out: Path, encoder: Path, *more: str) -> list[str]:
    sizes = ["--layers", "1", "--views", "2", "--alignment-epochs", "2", "--epochs", "1", "--batch-size", "8"]
    return ["train", "fusion", str(source), "--out", str(out), "--encoder", str(encoder), *sizes, *more]


def test_a_fusion_encoder_comes_out_that_matches_pictures_and_texts(
    captioned: Path, tiny_encoder: ComposedEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(captioned, tmp_path / "fusion", Path(tiny_encoder.name))) == ExitCode.OK

    told = capsys.readouterr()
    assert "text-to-image: " in told.out
    assert "expected calibration error" in told.out
    assert re.search(r"a match probability of 0\.5 is reached by \d+ % of the matches and \d+ % of the other candidates", told.out)
    assert "alignment, epoch 2" in told.err
    card = json.loads((tmp_path / "fusion" / "fusion.json").read_text())
    assert card["encoder_fingerprint"] == tiny_encoder.fingerprint
    assert [0 <= share <= 100 for share in card["kept_at_half"]] == [True, True]
    assert card["config"]["token_dim"] == tiny_encoder.image_token_dim  # reads tokens as the encoder gives them
    assert {figure["direction"] for figure in card["figures"]} == {"text-to-image", "image-to-text"}
    matcher = load_fusion_checkpoint(tmp_path / "fusion").matcher(torch.device("cpu"))
    pictures = [Image.open(path) for path in sorted(captioned.glob("*.png"))[:3]]
    _, image_tokens = tiny_encoder.embed_pixels_with_tokens(np.stack([tiny_encoder.prepare(picture) for picture in pictures]))
    _, text_tokens = tiny_encoder.embed_texts_with_tokens(["a red ball", "a green ball"])
    patches = matcher.project(image_tokens)
    np.testing.assert_allclose(np.linalg.norm(patches, axis=-1), 1, atol=1e-5)
    logits = matcher.match_logits(text_tokens, patches)
    assert logits.shape == (2, 3)
    assert np.isfinite(logits).all()
    # A batch of pairs is each pair by itself, up to rounding in half precision.
    np.testing.assert_allclose(matcher.match_logits(text_tokens, patches[1:2])[:, 0], logits[:, 1], atol=0.3)


def test_an_encoder_of_ours_is_tuned_first_where_that_is_asked_for(
    captioned: Path, tiny_encoder: ComposedEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tuned"
    asked = arguments(captioned, out, Path(tiny_encoder.name), "--unfreeze", "2")
    assert main(asked) == ExitCode.OK
    told = capsys.readouterr()
    assert re.search(r"epoch 2.*\n(.*\n)*.*alignment, epoch 2", told.err), "first the encoder, then what is on top of it"

    tuned = load_encoder(str(out), device="cpu")
    assert tuned.fingerprint != tiny_encoder.fingerprint
    assert load_fusion_checkpoint(out).matcher(torch.device("cpu")).encoder_fingerprint == tuned.fingerprint
    before, after = (load_checkpoint(Path(encoder.name)).model.state_dict() for encoder in (tiny_encoder, tuned))
    moved = {name.split(".")[0] for name, tensor in after.items() if not torch.allclose(tensor, before[name], atol=1e-6)}
    assert {"image_projection", "text_projection"} <= moved
    store = ["--store", str(tmp_path / "store")]
    assert main([*store, "index", str(captioned), "--encoder", str(out)]) == ExitCode.OK
    assert main([*store, "search", "a red ball", "--json"]) == ExitCode.OK
    assert '"match_probability": 0' in capsys.readouterr().out

    # Killed when the encoder was ready, the command goes on with what is on top of it.
    written = (out / "card.json").stat().st_mtime_ns
    for name in ("fusion.json", "fusion.safetensors"):
        (out / name).unlink()
    assert main(asked) == ExitCode.OK
    assert (out / "card.json").stat().st_mtime_ns == written
    assert main(asked) == exit_code_of(InvalidTraining(""))
    (out / "fusion.json").unlink()
    other = [*asked[:-1], "3"]  # not what is in OUT
    assert main(other) == exit_code_of(InvalidTraining(""))


def test_a_model_of_the_hub_stays_as_it_is(captioned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = save_clip(tmp_path / "clip")
    assert main(arguments(captioned, tmp_path / "tuned", clip, "--unfreeze", "1")) == exit_code_of(InvalidTraining(""))
    assert "tunes an encoder that `sightline train` wrote" in capsys.readouterr().err
    assert not (tmp_path / "tuned").exists()


def test_a_place_without_a_name_is_refused(
    captioned: Path, tiny_encoder: ComposedEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = arguments(captioned, Path(), Path(tiny_encoder.name))
    assert main(sizes) == exit_code_of(InvalidTraining(""))
    assert main(["train", "encoder", str(captioned), "--out", ""]) == exit_code_of(InvalidTraining(""))
    assert capsys.readouterr().err.count("no folder of its own") == 2


def test_a_model_of_the_hub_takes_a_fusion_encoder_by_the_same_command(captioned: Path, tmp_path: Path) -> None:
    clip = save_clip(tmp_path / "clip")
    assert main(arguments(captioned, tmp_path / "fusion", clip)) == ExitCode.OK
    matcher = load_fusion_checkpoint(tmp_path / "fusion").matcher(torch.device("cpu"))
    assert matcher.encoder_fingerprint == load_encoder(str(clip), device="cpu").fingerprint
    store = ["--store", str(tmp_path / "store")]
    assert main([*store, "index", str(captioned), "--encoder", str(clip), "--fusion", str(tmp_path / "fusion")]) == ExitCode.OK
    assert main([*store, "search", "a red ball", "--fusion", str(tmp_path / "fusion"), "--explain", str(tmp_path / "why"), "-k", "2"]) == 0
    assert len(list((tmp_path / "why").glob("*.png"))) == 2


def test_a_second_backbone_reads_each_picture_that_is_indexed(
    captioned: Path, tiny_encoder_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fusion = tmp_path / "fusion"
    assert main(arguments(captioned, fusion, tiny_encoder_path, "--second-backbone", str(tiny_encoder_path))) == ExitCode.OK
    card = json.loads((fusion / "fusion.json").read_text())
    assert card["second_backbone"]["name"] == json.loads((tiny_encoder_path / "card.json").read_text())["config"]["image"]["name"]
    assert card["config"]["feature_dim"] > 0
    assert card["credits"] == json.loads((tiny_encoder_path / "card.json").read_text()).get("credits", [])[:1]
    store = ["--store", str(tmp_path / "store")]
    assert main([*store, "index", str(captioned), "--encoder", str(tiny_encoder_path), "--fusion", str(fusion)]) == ExitCode.OK
    capsys.readouterr()
    assert main([*store, "collections", "show", "default"]) == ExitCode.OK
    assert "40 images, 13.7 kB an image" in capsys.readouterr().out
    assert main([*store, "search", "a red ball", "--fusion", str(fusion), "--json", "-k", "3"]) == ExitCode.OK
    hits = json.loads(capsys.readouterr().out)["hits"]
    assert all(hit["match_probability"] is not None for hit in hits)
    assert (
        main(["match", str(captioned / "00.png"), "a red ball", "--encoder", str(tiny_encoder_path), "--fusion", str(fusion)])
        == ExitCode.OK
    )


def test_another_second_backbone_reads_the_pictures_again_and_the_encoder_does_not(
    captioned: Path, tiny_encoder_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = ["--work", str(tmp_path / "work")]
    assert main(arguments(captioned, tmp_path / "one", tiny_encoder_path, *work)) == ExitCode.OK
    monkeypatch.setattr(ComposedEncoder, "embed_pixels_with_tokens", None)  # to be called is an error
    assert (
        main(arguments(captioned, tmp_path / "two", tiny_encoder_path, *work, "--second-backbone", str(tiny_encoder_path))) == ExitCode.OK
    )
    assert load_fusion_checkpoint(tmp_path / "one").second_backbone is None
    assert load_fusion_checkpoint(tmp_path / "two").second_backbone is not None


def test_a_second_backbone_that_is_none_is_refused_by_name(
    captioned: Path, tiny_encoder_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(captioned, tmp_path / "fusion", tiny_encoder_path, "--second-backbone", "resnet_of_mine")) == 50
    assert "resnet_of_mine" in capsys.readouterr().err
    assert main(arguments(captioned, tmp_path / "fusion", tiny_encoder_path, "--second-backbone", str(captioned))) == 51
    assert str(captioned) in capsys.readouterr().err


def test_pictures_that_keep_their_shapes_take_no_second_backbone(
    captioned: Path, tiny_encoder_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    naflex = save_siglip2_naflex(tmp_path / "naflex")
    assert main(arguments(captioned, tmp_path / "fusion", naflex, "--second-backbone", str(tiny_encoder_path))) == 14
    assert "in their own shapes" in capsys.readouterr().err


def test_a_model_of_the_hub_takes_a_second_backbone_too(captioned: Path, tiny_encoder_path: Path, tmp_path: Path) -> None:
    clip, fusion = save_clip(tmp_path / "clip"), tmp_path / "fusion"
    assert main(arguments(captioned, fusion, clip, "--second-backbone", str(tiny_encoder_path))) == ExitCode.OK
    store = ["--store", str(tmp_path / "store")]
    assert main([*store, "index", str(captioned), "--encoder", str(clip), "--fusion", str(fusion)]) == ExitCode.OK
    assert main([*store, "search", "a red ball", "--fusion", str(fusion), "-k", "2"]) == ExitCode.OK


def test_tokens_that_are_cached_serve_another_run(captioned: Path, tiny_encoder_path: Path, tmp_path: Path) -> None:
    work = ["--work", str(tmp_path / "work")]
    assert main(arguments(captioned, tmp_path / "one", tiny_encoder_path, *work)) == ExitCode.OK
    assert main(arguments(captioned, tmp_path / "two", tiny_encoder_path, *work)) == ExitCode.OK
    assert (tmp_path / "one" / FUSION_WEIGHTS).read_bytes() == (tmp_path / "two" / FUSION_WEIGHTS).read_bytes()


def test_what_is_finished_is_not_trained_over(captioned: Path, tiny_encoder_path: Path, tmp_path: Path) -> None:
    assert main(arguments(captioned, tmp_path / "fusion", tiny_encoder_path)) == ExitCode.OK
    before = (tmp_path / "fusion" / FUSION_WEIGHTS).read_bytes()
    assert main(arguments(captioned, tmp_path / "fusion", tiny_encoder_path, "--seed", "3")) == 14
    assert (tmp_path / "fusion" / FUSION_WEIGHTS).read_bytes() == before


def test_another_encoder_is_told_apart(captioned: Path, tiny_encoder_path: Path, tmp_path: Path) -> None:
    assert main(arguments(captioned, tmp_path / "fusion", tiny_encoder_path)) == ExitCode.OK
    matcher = load_fusion_checkpoint(tmp_path / "fusion").matcher(torch.device("cpu"))
    with pytest.raises(EncoderMismatch, match="collection 'holidays' was embedded by 0123456789ab: train one for it"):
        check_fits(matcher, encoder_fingerprint="0123456789abcdef", where="collection 'holidays'")


def test_a_source_without_captions_is_refused(tiny_encoder_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plain").mkdir()
    for number in range(12):
        Image.new("RGB", (40, 50), (number, 0, 0)).save(tmp_path / "plain" / f"{number}.png")
    assert main(arguments(tmp_path / "plain", tmp_path / "fusion", tiny_encoder_path)) == 14
    assert "has a caption" in capsys.readouterr().err


@pytest.mark.parametrize("has_caption_of_what_cannot_be_read", [False, True])
def test_a_validation_source_of_which_nothing_can_be_asked_is_refused_before_any_training(
    captioned: Path, tiny_encoder_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], has_caption_of_what_cannot_be_read: bool
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    Image.new("RGB", (40, 40), "red").save(bare / "a.png")
    if has_caption_of_what_cannot_be_read:
        (bare / "b.png").write_bytes(b"no picture")
        (bare / "b.txt").write_text("a red ball")
    assert main(arguments(captioned, tmp_path / "fusion", tiny_encoder_path, "--validate", str(bare))) == 14
    told = capsys.readouterr()
    assert "the pictures of the validation source 'bare' have neither captions nor classes to ask for" in told.err
    assert "epoch" not in told.err
    assert (tmp_path / "fusion.work").exists() == has_caption_of_what_cannot_be_read  # what can be seen at once is


def test_so_few_pictures_that_none_are_left_once_some_are_held_out(
    captioned: Path, tiny_encoder_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    # A fifth is held out by a digest of the key: these two are in it.
    held_out = [number for number in range(100) if hashlib.sha256(str(number).encode()).digest()[0] < 51][:2]
    for number in held_out:
        Image.new("RGB", (40, 40), "red").save(few / f"{number}.png")
        (few / f"{number}.txt").write_text(f"a red ball {number}")
    assert main(arguments(few, tmp_path / "fusion", tiny_encoder_path)) == 14
    assert "of those with captions 0 would be left to learn from; give more pictures" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["cut", "changed", "no card", "another version"])
def test_a_damaged_fusion_encoder_is_refused_by_name(captioned: Path, tiny_encoder_path: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "fusion"
    assert main(arguments(captioned, folder, tiny_encoder_path)) == ExitCode.OK
    weights, card = folder / FUSION_WEIGHTS, folder / "fusion.json"
    match damage:
        case "cut":
            weights.write_bytes(weights.read_bytes()[:-10])
        case "changed":
            weights.write_bytes(weights.read_bytes()[:-1] + b"\x07")
        case "no card":
            card.unlink()
        case "another version":
            card.write_text(card.read_text().replace('"format_version": 2', '"format_version": 9'))
    with pytest.raises(InvalidCheckpoint, match=str(folder)):
        load_fusion_checkpoint(folder)
