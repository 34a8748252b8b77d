"""Rendered scenes of two things side by side or one above the other, with the caption that is true and one that is not.

A swapped caption has the same words in another order: which colour belongs to which shape, or which thing is on which side, is all that
tells the two apart. A network that pools a text and a picture into one vector each sees hardly any difference.
"""

import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from sightline.training.pairs import CaptionedPicture

SIDE = 224
COLOURS = {"red": (214, 40, 40), "green": (46, 160, 67), "blue": (40, 90, 214)}
SHAPES = ("ball", "cube", "cone")
RELATIONS = ("left of", "above")
APART = (
    frozenset({("red", "ball"), ("blue", "cube")}),
    frozenset({("green", "cube"), ("red", "cone")}),
    frozenset({("blue", "ball"), ("green", "cone")}),
    frozenset({("red", "cube"), ("green", "ball")}),
)
"""Things that no scene shows together which is learnt from: what is said of two of them has to be understood word by word."""


@dataclass(frozen=True, slots=True)
class Scene:
    """`first` stands left of or above `second`; each is a colour and a shape."""

    first: tuple[str, str]
    second: tuple[str, str]
    relation: str
    seed: int  # of places, sizes and the ground

    @property
    def is_new(self) -> bool:
        """Whether its things stand together in no scene that is learnt from."""
        return frozenset({self.first, self.second}) in APART

    @property
    def caption(self) -> str:
        """What is true of it."""
        return f"a {' '.join(self.first)} {self.relation} a {' '.join(self.second)}"

    def with_colours_swapped(self) -> "Scene":
        """Another scene, of the same words."""
        (one, shape), (other, second_shape) = self.first, self.second
        return replace(self, first=(other, shape), second=(one, second_shape))

    def with_places_swapped(self) -> "Scene":
        """Another scene, of the same words."""
        return replace(self, first=self.second, second=self.first)

    def centres(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Where the two things stand, (x, y) in pixels."""
        generator = np.random.default_rng([self.seed, 1])
        near, far = generator.integers(48, 72), generator.integers(SIDE - 72, SIDE - 48)
        across, also_across = generator.integers(56, SIDE - 56, 2)
        if self.relation == "left of":
            return (int(near), int(across)), (int(far), int(also_across))
        return (int(across), int(near)), (int(also_across), int(far))

    def radii(self) -> tuple[int, int]:
        """Half of each thing's width, in pixels."""
        first, second = np.random.default_rng([self.seed, 2]).integers(26, 40, 2)
        return int(first), int(second)

    def draw(self) -> Image.Image:
        """An RGB picture of `SIDE` x `SIDE`."""
        generator = np.random.default_rng([self.seed, 3])
        ground = generator.normal(generator.uniform(150, 230), 12, (SIDE // 8, SIDE // 8, 3)).clip(0, 255).astype(np.uint8)
        picture = Image.fromarray(ground).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        draw = ImageDraw.Draw(picture)
        for (colour, shape), (x, y), radius in zip((self.first, self.second), self.centres(), self.radii(), strict=True):
            box = (x - radius, y - radius, x + radius, y + radius)
            match shape:
                case "ball":
                    draw.ellipse(box, fill=COLOURS[colour])
                case "cube":
                    draw.rectangle(box, fill=COLOURS[colour])
                case _:
                    draw.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill=COLOURS[colour])
        return picture

    def captioned(self) -> CaptionedPicture:
        """As training takes it."""
        return CaptionedPicture(f"{self.caption} {self.seed}", (self.caption,), self._png)

    def _png(self) -> bytes:
        file = io.BytesIO()
        self.draw().save(file, format="PNG")
        return file.getvalue()


def kinds() -> list[Scene]:
    """Every pair of things of different colour and shape in every relation, with seed 0."""
    things = list(itertools.product(COLOURS, SHAPES))
    pairs = [(one, other) for one, other in itertools.product(things, things) if one[0] != other[0] and one[1] != other[1]]
    return [Scene(one, other, relation, 0) for one, other in pairs for relation in RELATIONS]


def placed(of_kinds: Sequence[Scene], *, times: int, first_seed: int) -> list[Scene]:
    """So many of every kind, each with places, sizes and a ground of its own."""
    return [replace(kind, seed=first_seed + number) for number, kind in enumerate([*of_kinds] * times)]
