"""What is asked for: words, pictures and items, each with a weight, and which modality the hits shall have.

Parsing is pure: it takes what a person typed and gives a `Query` or raises `InvalidQuery`; nothing is opened or embedded here.

A weight follows a part after two colons, as in several image generators: `a dog::2 people::-0.5` looks for dogs above all
and away from people; a part without one weighs 1. What is to be filtered (today the modality, later metadata) is a field of
`Query` beside the parts, because it limits which items may be hits and is no part of what they are compared with.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sightline.errors import InvalidQuery
from sightline.types import Modality

MAX_QUERY_WORDS = 512
"""Longer texts are cut: no text encoder that is in use reads more than 512 tokens, most read 64 or 77."""

MAX_QUERY_CHARACTERS = 16 * MAX_QUERY_WORDS
"""The same bound for text without spaces, so that a pasted file costs no more than a long sentence."""

MAX_TOP_K = 100_000
"""More hits than this is an export, not a search: each needs its row in memory and its line in one SQL query."""

NEGATIVE_WEIGHT = 0.5
"""What `--not` subtracts. At 1 the negative outweighs the rest as soon as the two resemble each other."""

_WEIGHT = re.compile(r"::(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))(?=\s|$)")


@dataclass(frozen=True, slots=True)
class Words:
    """A text to compare with."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture to compare with: a file, the bytes of one, or one that somebody has decoded, which is upright RGB then."""

    source: Path | bytes | Image.Image
    weight: float = 1.0

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(self.source) if isinstance(self.source, Path) else "the picture of the query"


@dataclass(frozen=True, slots=True)
class LikeItem:
    """An item of the collection to compare with; it is itself never among the hits."""

    key: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class GivenEmbedding:
    """A point of the collection's own space to compare with, as an encoder gave it; any length but zero, brought to one here.

    Raises `InvalidQuery` for what is no row of finite numbers.
    """

    embedding: NDArray[np.floating]  # (embedding_dim,)
    modality: Modality  # what was embedded
    weight: float = 1.0

    def __post_init__(self) -> None:
        values = self.embedding.astype(np.float64)
        if values.ndim != 1 or not np.isfinite(values).all():
            raise InvalidQuery("the embedding must be one row of finite numbers")
        largest = np.abs(values).max(initial=0.0)
        if largest == 0:
            raise InvalidQuery("the embedding is all zeros and points nowhere; give what an encoder gave")
        values /= largest  # so that no square overflows
        object.__setattr__(self, "embedding", (values / np.linalg.norm(values)).astype(np.float32))


QueryPart = Words | Picture | LikeItem | GivenEmbedding


@dataclass(frozen=True, slots=True)
class Query:
    """Parts whose weighted embeddings are added up, and the modality of the hits (None: any).

    Raises `InvalidQuery` unless at least one part has a positive weight and all weights are finite and not zero.
    """

    parts: tuple[QueryPart, ...]
    modality: Modality | None = None
    notes: tuple[str, ...] = ()  # what was done to the query, for the person who asked

    def __post_init__(self) -> None:
        for part in self.parts:
            if not math.isfinite(part.weight) or part.weight == 0:
                raise InvalidQuery(f"a weight of {part.weight} means nothing; give a number that is not 0, such as 2 or -0.5")
            if isinstance(part, Words) and not part.text.strip():
                raise InvalidQuery('the query has no words; describe what you look for, as in "a dog on the beach"')
        if not any(part.weight > 0 for part in self.parts):
            raise InvalidQuery("the query looks for nothing; give words, a picture (--image FILE) or an item (--like KEY)")

    def __str__(self) -> str:
        """The query as a title: words as typed, pictures and items by name, weights other than 1 behind two colons."""
        return " ".join(_describe(part) for part in self.parts)


def parse_query(
    words: str | None = None,
    *,
    images: Sequence[Path | bytes] = (),
    like: Sequence[str] = (),
    without: Sequence[str] = (),
    others: Sequence[QueryPart] = (),
    modality: Modality | None = None,
) -> Query:
    """The query that a person typed; `others` are parts of it that are understood already.

    `words` and `without` may carry weights (`dog::2`); what is `without` is subtracted with weight 0.5 unless it says otherwise,
    whatever the sign it is written with. So may `images` given as paths and `like`.
    Raises `InvalidQuery` when a text is blank or not valid Unicode, a weight is 0, or nothing is looked for.
    """
    notes: list[str] = []
    parts: list[QueryPart] = []
    if words is not None:
        parts += [Words(_checked_text(text, notes=notes), weight) for text, weight in split_weighted(words)]
    parts += [*(_picture(image) for image in images), *others]
    parts += [LikeItem(*split_weight(key)) for key in like]
    for text in without:
        for phrase, weight in split_weighted(text, default_weight=NEGATIVE_WEIGHT):
            parts.append(Words(_checked_text(phrase, notes=notes), -abs(weight)))
    return Query(tuple(parts), modality=modality, notes=tuple(notes))


def plain_words(text: str) -> Words:
    """A text as words of weight 1, whatever colons are in it; raises `InvalidQuery` when it is blank or not valid Unicode."""
    words = Words(_checked_text(text, notes=[]))
    Query((words,))  # refuses what is blank
    return words


def split_weighted(text: str, *, default_weight: float = 1.0) -> list[tuple[str, float]]:
    """`"a dog::2 people::-0.5 beach"` -> `[("a dog", 2.0), ("people", -0.5), ("beach", 1.0)]`, in the order written.

    Two colons that no number follows are words like any other.
    """
    phrases: list[tuple[str, float]] = []
    start = 0
    for match in _WEIGHT.finditer(text):
        phrases.append((text[start : match.start()].strip(), float(match["weight"])))
        start = match.end()
    rest = text[start:].strip()
    return [*phrases, (rest, default_weight)] if rest or not phrases else phrases


def split_weight(text: str) -> tuple[str, float]:
    """`"beach/dog.jpg::0.5"` -> `("beach/dog.jpg", 0.5)`; a name without a number behind its last two colons weighs 1."""
    matches = list(_WEIGHT.finditer(text))
    if not matches or matches[-1].end() != len(text):
        return text, 1.0
    return text[: matches[-1].start()], float(matches[-1]["weight"])


def checked_top_k(top_k: int) -> int:
    """`top_k` itself; raises `InvalidQuery` when it is below 1 or above `MAX_TOP_K`."""
    if not 1 <= top_k <= MAX_TOP_K:
        raise InvalidQuery(f"k is {top_k}; it must be between 1 and {MAX_TOP_K:,}")
    return top_k


def _picture(image: Path | bytes) -> Picture:
    if isinstance(image, bytes):
        return Picture(image)
    name, weight = split_weight(str(image))
    return Picture(Path(name), weight)


def _checked_text(text: str, *, notes: list[str]) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidQuery(f"the query is not valid Unicode at character {error.start + 1}; type it in UTF-8") from error
    words = text.split()
    cut = " ".join(words[:MAX_QUERY_WORDS])[:MAX_QUERY_CHARACTERS]
    if len(cut) < len(" ".join(words)):
        notes.append(
            f"the query has {len(words):,} words and {len(text):,} characters; "
            f"it was cut to {len(cut.split()):,} words and {len(cut):,} characters before it was embedded"
        )
    return cut


def _describe(part: QueryPart) -> str:
    return _name(part) if part.weight == 1 else f"{_name(part)}::{part.weight:g}"


def _name(part: QueryPart) -> str:
    match part:
        case Words():
            return part.text
        case Picture():
            return f"[{part.name}]"
        case LikeItem():
            return f"[like {part.key}]"
        case GivenEmbedding():
            return "[an embedding]"
