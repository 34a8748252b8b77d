"""What pooled vectors cannot tell and a fusion encoder can: which colour is whose, and which thing is where.

A fusion encoder is trained on rendered scenes, over the frozen tokens of sightline-mini, by what trains one on photographs. Then it
chooses between a scene's caption and the same words in another order, points at the things that it is asked for, and loses its match when
what it pointed at is deleted. None of the scenes that it is asked about was trained on, and in some stand things that never stood together.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.explanation_quality import measure
from sightline.encoders.fusion_checkpoint import load_fusion_checkpoint
from sightline.encoders.load import load_encoder
from sightline.encoders.matcher import FusionMatcher
from sightline.encoders.tokens import GRID_SIDE, TokenEncoder
from sightline.training.fusion_options import FusionFitOptions
from sightline.training.fusion_recipe import FusionRecipe, FusionTrainingListener, train_fusion
from tests.scenes import SIDE, Scene, kinds, placed

RECIPE = FusionRecipe(
    FusionFitOptions(
        alignment_epochs=40,
        alignment_batch_size=64,
        alignment_learning_rate=2e-3,
        token_dropout=0.0,
        word_dropout=0.0,  # every word counts here
        rerank_depth=16,
    ),
    num_layers=0,  # as sightline-mini's
    num_views=1,  # mirrored, a scene would make its caption wrong
)
PATCH_SIDE = SIDE / GRID_SIDE

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Trained:
    """The fusion encoder, and scenes that it never saw."""

    encoder: TokenEncoder
    matcher: FusionMatcher
    scenes: list[Scene]
    pixels: NDArray[Any]  # (scenes, SIDE, SIDE, 3)
    embeddings: NDArray[np.float32]  # (scenes, embedding_dim)
    patches: NDArray[np.float32]  # (scenes, patches, width)

    def logits(self, captions: list[str]) -> NDArray[np.float32]:
        """Match logit of each caption with the scene at its place."""
        _, texts = self.encoder.embed_texts_with_tokens(captions)
        return np.diagonal(self.matcher.match_logits(texts, self.patches))

    def similarities(self, captions: list[str]) -> NDArray[np.float32]:
        """Cosine of each caption with the scene at its place."""
        return np.asarray((self.encoder.embed_texts(captions) * self.embeddings).sum(axis=1))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads wait for each other at every product on a busy machine, and these are small."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("scenes")
    encoder = load_encoder("sightline-mini", device="cpu")
    learnt = placed([kind for kind in kinds() if not kind.is_new], times=4, first_seed=0)
    validation = placed([kind for kind in kinds() if not kind.is_new][::2], times=1, first_seed=100_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sightline.training.token_cache.BASIS_PICTURES", 64)  # scenes vary little, and each is read for the basis once more
        train_fusion(
            {"scenes": [scene.captioned() for scene in learnt]},
            {"validation": [scene.captioned() for scene in validation]},
            encoder,
            RECIPE,
            out=folder / "fusion",
            work=folder / "work",
            device=torch.device("cpu"),
            max_pixels=10**6,
            listener=FusionTrainingListener(),
        )
    matcher = load_fusion_checkpoint(folder / "fusion").matcher(torch.device("cpu"))
    scenes = placed(kinds(), times=2, first_seed=200_000)
    pixels = np.stack([encoder.prepare(scene.draw()) for scene in scenes])
    blocks = [encoder.embed_pixels_with_tokens(block) for block in np.array_split(pixels, 5)]
    patches = np.concatenate([matcher.project(tokens) for _, tokens in blocks])
    return Trained(encoder, matcher, scenes, pixels, np.concatenate([embeddings for embeddings, _ in blocks]), patches)


@pytest.mark.parametrize("swapped", [Scene.with_colours_swapped, Scene.with_places_swapped])
def test_it_tells_a_caption_from_the_same_words_in_another_order(trained: Trained, swapped: Callable[[Scene], Scene]) -> None:
    right = [scene.caption for scene in trained.scenes]
    wrong = [swapped(scene).caption for scene in trained.scenes]
    is_new = np.array([scene.is_new for scene in trained.scenes])

    by_similarity = trained.similarities(right) > trained.similarities(wrong)
    by_fusion = trained.logits(right) > trained.logits(wrong)

    assert 0.35 <= by_similarity.mean() <= 0.65, "the dual encoder is near chance: the scenes ask for something that it cannot do"
    assert by_fusion.mean() >= 0.9
    assert by_fusion[is_new].mean() >= 0.9, "what was never seen together is told apart as well"


def hottest(relevance: NDArray[np.float32]) -> tuple[float, float]:
    """The middle of the most relevant patch, (x, y) in pixels."""
    row, column = np.unravel_index(int(relevance.argmax()), (GRID_SIDE, GRID_SIDE))
    return (float(column) + 0.5) * PATCH_SIDE, (float(row) + 0.5) * PATCH_SIDE


def is_on(spot: tuple[float, float], centre: tuple[int, int], radius: int) -> bool:
    """Whether a patch around the spot touches the thing."""
    return max(abs(spot[0] - centre[0]), abs(spot[1] - centre[1])) <= radius + PATCH_SIDE / 2


def test_the_map_of_a_thing_lies_on_the_thing(trained: Trained) -> None:
    is_on_it, is_on_the_other = [], []
    one_of_each_kind = len(kinds())
    for scene, patches in zip(trained.scenes[:one_of_each_kind], trained.patches, strict=False):
        for name, place, other in ((scene.first, 0, 1), (scene.second, 1, 0)):
            text = " ".join(name)  # "red ball"
            _, tokens = trained.encoder.embed_texts_with_tokens([text])
            spot = hottest(trained.matcher.explain(tokens, patches[None]).overall)
            is_on_it.append(is_on(spot, scene.centres()[place], scene.radii()[place]))
            is_on_the_other.append(is_on(spot, scene.centres()[other], scene.radii()[other]))

    # By chance either would be a fifth: a square of some 66 + 32 pixels of 224 x 224.
    assert np.mean(is_on_it) >= 0.75
    assert np.mean(is_on_the_other) <= 0.05


def test_deleting_what_is_relevant_lowers_the_match_faster_than_deleting_at_random(trained: Trained) -> None:
    few = slice(None, None, 9)  # 16 scenes: each is asked about four times with 50 numbers of patches deleted
    captions = [scene.caption for scene in trained.scenes[few]]

    rows = {str(row["deleted"]): row for row in measure(captions, trained.pixels[few], trained.encoder, trained.matcher)}

    area = {name: float(str(row["deletion AUC, median"])) for name, row in rows.items()}
    assert area["most relevant first"] <= 0.75 * area["at random"]
    assert area["at random"] < area["least relevant first"]
    assert float(str(rows["most relevant first"]["lower than at random, %"])) >= 90
