"""What pooled vectors cannot tell and a fusion encoder can: which colour belongs to which shape, and which thing is where.

A fusion encoder is trained on rendered scenes, over the frozen tokens of sightline-mini, by the same code that trains one on photographs.
Then it chooses between a scene's caption and the same words in another order, points at the things that it is asked for, and loses its
match when what it pointed at is deleted.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from search.explain import explain_words
from search.second_look import SoughtWords
from sightline.encoders.fusion_checkpoint import load_fusion_checkpoint
from sightline.encoders.load import load_encoder
from sightline.encoders.matcher import FusionMatcher
from sightline.encoders.tokens import GRID_SIDE, TokenEncoder
from sightline.training.fusion_options import FusionFitOptions
from sightline.training.fusion_recipe import FusionRecipe, FusionTrainingListener, train_fusion
from tests.scenes import SIDE, Scene, scenes

FIT = FusionFitOptions(
    alignment_epochs=2,
    alignment_batch_size=64,
    fusion_epochs=24,
    fusion_batch_size=64,
    fusion_learning_rate=1e-3,
    word_dropout=0.0,  # every word counts here
    token_dropout=0.0,
    layer_dropout=0.0,
    rerank_depth=16,
)
PATCH_SIDE = SIDE / GRID_SIDE


@dataclass(frozen=True)
class Trained:
    """The fusion encoder, and scenes that it never saw."""

    encoder: TokenEncoder
    matcher: FusionMatcher
    held_out: list[Scene]
    embeddings: NDArray[np.float32]  # (scenes, embedding_dim)
    patches: NDArray[np.float32]  # (scenes, patches, width)

    def logits(self, captions: list[str]) -> NDArray[np.float32]:
        """Match logit of each caption with the scene at its place."""
        _, texts = self.encoder.embed_texts_with_tokens(captions)
        return np.diagonal(self.matcher.match_logits(texts, self.patches))

    def similarities(self, captions: list[str]) -> NDArray[np.float32]:
        """Cosine of each caption with the scene at its place."""
        return np.asarray((self.encoder.embed_texts(captions) * self.embeddings).sum(axis=1))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("scenes")
    encoder = load_encoder("sightline-mini", device="cpu")
    train_fusion(
        {"scenes": [scene.captioned() for scene in scenes(10, first_seed=0)]},
        {"held out": [scene.captioned() for scene in scenes(1, first_seed=100_000)]},
        encoder,
        FusionRecipe(fit=FIT, num_views=1),  # one view: a mirrored scene would make its caption wrong
        out=folder / "fusion",
        work=folder / "work",
        device=torch.device("cpu"),
        max_pixels=10**6,
        listener=FusionTrainingListener(),
    )
    held_out = scenes(2, first_seed=200_000)
    embeddings, tokens = encoder.embed_pixels_with_tokens(np.stack([encoder.prepare(scene.draw()) for scene in held_out]))
    matcher = load_fusion_checkpoint(folder / "fusion").matcher(torch.device("cpu"))
    return Trained(encoder, matcher, held_out, embeddings, matcher.project(tokens))


@pytest.mark.parametrize("swapped", [Scene.with_colours_swapped, Scene.with_places_swapped])
def test_it_tells_a_caption_from_the_same_words_in_another_order(trained: Trained, swapped: Callable[[Scene], Scene]) -> None:
    right = [scene.caption for scene in trained.held_out]
    wrong = [swapped(scene).caption for scene in trained.held_out]

    by_similarity = float((trained.similarities(right) > trained.similarities(wrong)).mean())
    by_fusion = float((trained.logits(right) > trained.logits(wrong)).mean())

    assert 0.35 <= by_similarity <= 0.7, "the dual encoder is near chance, so that the scenes ask for something that it cannot do"
    assert by_fusion >= 0.9, by_fusion


def pointed_at(relevance: NDArray[np.float32]) -> tuple[float, float]:
    """The middle of the most relevant patch, (x, y) in pixels."""
    row, column = np.unravel_index(int(relevance.argmax()), relevance.shape)
    return (float(column) + 0.5) * PATCH_SIDE, (float(row) + 0.5) * PATCH_SIDE


def test_the_map_of_a_thing_lies_on_the_thing(trained: Trained) -> None:
    is_on = []
    for scene, patches in zip(trained.held_out, trained.patches, strict=True):
        match = explain_words(SoughtWords((scene.caption,), (1.0,)), trained.encoder, trained.matcher, patches[None])
        words = [word.relevance for word in match.words]
        for start, centre, radius in zip((1, len(words) - 2), scene.centres(), scene.radii(), strict=True):  # "red ball" ... "blue cube"
            x, y = pointed_at(np.sum(words[start : start + 2], axis=0))
            reach = radius + PATCH_SIDE / 2  # the patch touches the thing
            is_on.append(abs(x - centre[0]) <= reach and abs(y - centre[1]) <= reach)
    # By chance: a square of some 66 + 32 pixels of 224 x 224, about a fifth.
    assert np.mean(is_on) >= 0.8, np.mean(is_on)


def deleted(patches: NDArray[np.float32], order: NDArray[np.int64], neutral: NDArray[np.float32]) -> NDArray[np.float32]:
    """(steps, patches, width): the patches with none, then one more at a time replaced by what lies there in the mean over all scenes."""
    steps = [patches.copy()]
    for place in order:
        steps.append(steps[-1].copy())
        steps[-1][place] = neutral[place]
    return np.stack(steps)


def test_deleting_what_is_relevant_lowers_the_match_faster_than_deleting_at_random(trained: Trained) -> None:
    neutral = trained.patches.mean(axis=0)
    neutral /= np.linalg.norm(neutral, axis=-1, keepdims=True)
    generator = np.random.default_rng(0)
    by_relevance, at_random = [], []
    for scene, patches in zip(trained.held_out[:72], trained.patches, strict=False):
        match = explain_words(SoughtWords((scene.caption,), (1.0,)), trained.encoder, trained.matcher, patches[None])
        _, texts = trained.encoder.embed_texts_with_tokens([scene.caption])
        orders = {"relevance": np.argsort(-match.relevance.ravel()), "random": generator.permutation(GRID_SIDE**2)}
        curves = {name: trained.matcher.match_logits(texts, deleted(patches, order, neutral))[0] for name, order in orders.items()}
        whole, nothing = curves["random"][0], curves["random"][-1]
        by_relevance.append((curves["relevance"].mean() - nothing) / (whole - nothing))
        at_random.append((curves["random"].mean() - nothing) / (whole - nothing))
    assert np.median(by_relevance) < 0.6 * np.median(at_random), (np.median(by_relevance), np.median(at_random))
