"""Any picture with any text: how near they are, how likely they match, and which part of the picture answers. No collection is needed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from api.library import EncoderShelf
from search.embed import check_pictures, prepared_pictures
from search.explain import MatchExplanation, explain_words
from search.query import Picture, plain_words
from search.second_look import SoughtWords
from sightline.encoders.encoder import Encoder
from sightline.errors import InvalidQuery
from sightline.settings import Settings, load_settings
from sightline.types import Modality

if TYPE_CHECKING:
    from sightline.encoders.tokens import TokenEncoder

MAX_TEXTS = 10_000


@dataclass(frozen=True, slots=True)
class Match:
    """One text and the picture."""

    text: str
    similarity: float  # cosine, in [-1, 1]
    explanation: MatchExplanation | None  # match logit, probability and relevance; None where no fusion encoder fits the encoder


@dataclass(frozen=True, slots=True)
class PictureMatches:
    """A picture and what it was compared with, in the order given."""

    picture: Path | bytes
    encoder: "TokenEncoder"
    matches: tuple[Match, ...]
    notes: tuple[str, ...]


def match_picture(
    picture: Path | str | bytes, texts: Sequence[str], *, encoder: Encoder | str | None = None, settings: Settings | None = None
) -> PictureMatches:
    """Similarity, match logit and probability, and relevance of a picture's patches for every word of every text.

    `encoder` is one that is loaded already, or what to load; that of the settings when it is None. The fusion encoder is that of the
    settings, or the one that the encoder brings. Raises `InvalidQuery` for a text without words and without any text, `UnreadableImage`,
    `EncoderMismatch` and what loading an encoder raises.
    """
    if not texts:
        raise InvalidQuery('there is no text to match the picture with; give one, as in "a dog on the beach"')
    if len(texts) > MAX_TEXTS:
        raise InvalidQuery(f"{len(texts):,} texts; at most {MAX_TEXTS:,} are matched at once")
    settings = load_settings() if settings is None else settings
    source = Path(picture) if isinstance(picture, str) else picture
    asked = [plain_words(text) for text in texts]
    check_pictures([Picture(source)])
    shelf = EncoderShelf(encoder, settings=settings)
    loaded = cast("TokenEncoder", shelf.for_new_collection())
    matcher = shelf.matcher_of(loaded, collection=loaded.name)
    loaded.load(Modality.IMAGE)
    loaded.load(Modality.TEXT)
    pixels = prepared_pictures([Picture(source)], encoder=loaded, max_pixels=settings.max_pixels)
    embeddings, tokens = loaded.embed_pixels_with_tokens(pixels)
    similarities = loaded.embed_texts([words.text for words in asked]) @ embeddings[0]  # (texts,)
    patches = None if matcher is None else matcher.project(tokens)  # (1, patches, width)
    matches = []
    for words, similarity in zip(asked, similarities.tolist(), strict=True):
        sought = SoughtWords((words.text,), (1.0,))
        explanation = None if matcher is None or patches is None else explain_words(sought, loaded, matcher, patches)
        matches.append(Match(words.text, similarity, explanation))
    notes = [f"{loaded.name} read only the beginning of {words.text[:40]!r}..." for words in asked if loaded.is_truncated(words.text)]
    if matcher is None:
        notes.append(f"no fusion encoder comes with {loaded.name}: similarity is all there is; `sightline train fusion` trains one")
    return PictureMatches(source, loaded, tuple(matches), tuple(notes))
