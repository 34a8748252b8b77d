"""Any picture with any text: how near they are, how likely they match, and which part of the picture answers. No collection is needed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from PIL import Image

from api.encoder_shelf import EncoderShelf
from search.embed import check_pictures, checked_embeddings, decoded_picture, prepared_pictures
from search.explain import MatchExplanation, explain_words
from search.query import Picture, Words, plain_words
from search.readers import reader_of_patches
from search.second_look import SoughtWords
from sightline.encoders.encoder import Encoder
from sightline.errors import InvalidQuery
from sightline.settings import Settings, load_settings
from sightline.types import Modality

if TYPE_CHECKING:
    from sightline.encoders.blip_matcher import BlipMatcher
    from sightline.encoders.matcher import FusionMatcher
    from sightline.encoders.tokens import TokenEncoder

MAX_TEXTS = 10_000


@dataclass(frozen=True, slots=True)
class Match:
    """One text and the picture."""

    text: str
    similarity: float  # cosine, in [-1, 1]
    match_logit: float | None  # None where no fusion encoder fits the encoder
    match_probability: float | None
    explanation: MatchExplanation | None  # None also where the fusion encoder is one that does not explain


@dataclass(frozen=True, slots=True)
class PictureMatches:
    """A picture and what it was compared with, in the order given."""

    picture: Path | bytes | Image.Image
    encoder: "TokenEncoder"
    matches: tuple[Match, ...]
    notes: tuple[str, ...]


def match_picture(
    picture: Path | str | bytes, texts: Sequence[str], *, encoder: Encoder | str | None = None, settings: Settings | None = None
) -> PictureMatches:
    """Similarity, match logit and probability, and relevance of a picture's patches for every word of every text.

    `encoder` is one that is loaded already, or what to load; that of the settings when it is None. The fusion encoder is that of the
    settings, or the one that the encoder brings. Raises `InvalidQuery` for a text without words and without any text, `UnreadableImage`,
    `InvalidCheckpoint` for embeddings that are no numbers, `EncoderMismatch` and what loading an encoder raises.
    """
    settings = load_settings() if settings is None else settings
    asked = Picture(Path(picture) if isinstance(picture, str) else picture)
    words = _words_of(texts)
    check_pictures([asked])
    shelf = EncoderShelf(encoder, settings=settings)
    loaded = shelf.for_new_collection()
    return _matched(asked, words, encoder=loaded, found=shelf.matcher_of(loaded, where="the picture"), max_pixels=settings.max_pixels)


def match_with(
    picture: Picture, texts: Sequence[str], *, encoder: Encoder, matcher: "FusionMatcher | BlipMatcher | None", max_pixels: int
) -> PictureMatches:
    """As `match_picture`, with networks that are loaded already."""
    return _matched(picture, _words_of(texts), encoder=encoder, found=matcher, max_pixels=max_pixels)


def _words_of(texts: Sequence[str]) -> list[Words]:
    if not texts:
        raise InvalidQuery('there is no text to match the picture with; give one, as in "a dog on the beach"')
    if len(texts) > MAX_TEXTS:
        raise InvalidQuery(f"{len(texts):,} texts; at most {MAX_TEXTS:,} are matched at once")
    return [plain_words(text) for text in texts]


def _matched(
    picture: Picture, asked: Sequence[Words], *, encoder: Encoder, found: "FusionMatcher | BlipMatcher | None", max_pixels: int
) -> PictureMatches:
    loaded = cast("TokenEncoder", encoder)
    matcher = reader_of_patches(found)
    loaded.load(Modality.IMAGE)
    loaded.load(Modality.TEXT)
    pixels = prepared_pictures([picture], encoder=loaded, max_pixels=max_pixels)
    if matcher is None:
        embeddings, patches = loaded.embed_pixels(pixels), None
    else:
        embeddings, tokens = loaded.embed_pixels_with_tokens(pixels)
        patches = matcher.project(tokens)  # (1, patches, width)
    text_embeddings = checked_embeddings(loaded.embed_texts([words.text for words in asked]), loaded)
    similarities = (text_embeddings @ checked_embeddings(embeddings, loaded)[0]).tolist()  # one a text
    notes = [f"{loaded.name} read only the beginning of {words.text[:40]!r}..." for words in asked if loaded.is_truncated(words.text)]
    if matcher is not None and patches is not None:
        explained = [explain_words(SoughtWords((words.text,), (1.0,)), loaded, matcher, patches) for words in asked]
        matches = [
            Match(words.text, similarity, each.match_logit, each.match_probability, each)
            for words, similarity, each in zip(asked, similarities, explained, strict=True)
        ]
    elif found is not None:
        matches = _by_pictures(cast("BlipMatcher", found), picture, asked, similarities, max_pixels=max_pixels)
    else:
        matches = [Match(words.text, similarity, None, None, None) for words, similarity in zip(asked, similarities, strict=True)]
        notes.append(f"no fusion encoder comes with {loaded.name}: similarity is all there is; `sightline train fusion` trains one")
    return PictureMatches(picture.source, loaded, tuple(matches), tuple(notes))


def _by_pictures(
    matcher: "BlipMatcher", picture: Picture, asked: Sequence[Words], similarities: Sequence[float], *, max_pixels: int
) -> list[Match]:
    from sightline.encoders.blip_matcher import KeyedPicture

    def opened() -> Image.Image:
        return decoded_picture(picture, max_pixels=max_pixels, target_side=None)

    logits = matcher.match_logits([words.text for words in asked], [KeyedPicture("asked", opened)])[:, 0]  # (texts,)
    probabilities = matcher.calibration.probabilities(logits)
    figures = zip(asked, similarities, logits.tolist(), probabilities.tolist(), strict=True)
    return [Match(words.text, similarity, logit, probability, None) for words, similarity, logit, probability in figures]
