"""Many searches in one call: what they have in common is done once, and each has an answer or a problem of its own."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from api.encoder_shelf import EncoderShelf
from api.http.schemas import AnswerBody
from api.http.searches import Search, answer_body, answered
from api.library import Sightline
from search.engine import is_of_words
from search.query import Words
from search.rerank import Reranking
from search.together import TextsTogether
from sightline.encoders.encoder import Encoder
from sightline.errors import DeadlineExceeded, SightlineError
from sightline.storage.records import CollectionRecord
from sightline.types import CollectionId

if TYPE_CHECKING:  # they import torch
    from sightline.encoders.blip_matcher import BlipMatcher
    from sightline.encoders.matcher import FusionMatcher
    from sightline.encoders.tokens import TokenEncoder


class _TogetherShelf(EncoderShelf):
    """A shelf whose encoders know which texts will be asked for. For one thread."""

    def __init__(self, shelf: EncoderShelf, texts_by_collection: dict[CollectionId, list[str]]) -> None:
        self._shelf = shelf
        self._texts_by_collection = texts_by_collection
        self._encoder_by_collection: dict[CollectionId, Encoder] = {}

    def for_collection(self, record: CollectionRecord) -> Encoder:
        """See `EncoderShelf`."""
        if record.collection_id not in self._encoder_by_collection:
            encoder = cast("TokenEncoder", self._shelf.for_collection(record))
            texts = self._texts_by_collection.get(record.collection_id, [])
            self._encoder_by_collection[record.collection_id] = TextsTogether(encoder, texts)
        return self._encoder_by_collection[record.collection_id]

    def matcher_for(self, record: CollectionRecord) -> "FusionMatcher | BlipMatcher | None":
        """See `EncoderShelf`."""
        return self._shelf.matcher_for(record)


def answered_each(sightline: Sightline, searches: Sequence[Search]) -> list[AnswerBody | SightlineError]:
    """An answer or what is wrong with it, for each.

    Raises `CollectionNotFound`, and `DeadlineExceeded`: nobody waits for the others either.

    First pages of words alone that have their limits in common are one search of many queries, and the words of all go through the text
    encoder in one pass.
    """
    together = _embedding_together(sightline, searches)
    bodies: dict[int, AnswerBody | SightlineError] = {}
    for numbers in _alike(searches).values():
        if len(numbers) > 1:
            bodies |= _answered_in_one(together, {number: searches[number] for number in numbers})
    for number, search in enumerate(searches):
        if number not in bodies:
            bodies[number] = _answer_or_error(together, search)
    return [bodies[number] for number in range(len(searches))]


def _alike(searches: Sequence[Search]) -> dict[tuple[str, int, Reranking | None], list[int]]:
    """The numbers of those that can be one search of many queries, by what these have in common."""
    found: dict[tuple[str, int, Reranking | None], list[int]] = {}
    for number, search in enumerate(searches):
        wants_to_filter_nothing = search.body.rerank_depth == 0 and search.body.min_match is not None  # an error, said of that search alone
        if is_of_words(search.query) and search.body.cursor is None and not wants_to_filter_nothing:
            found.setdefault((search.collection, search.body.top_k, search.body.reranking), []).append(number)
    return found


def _answered_in_one(sightline: Sightline, search_by_number: Mapping[int, Search]) -> dict[int, AnswerBody | SightlineError]:
    """Nothing where one of them is in error: each is asked by itself then."""
    one = next(iter(search_by_number.values()))
    queries = [search.query for search in search_by_number.values()]
    try:
        answers = sightline.search_many(queries, k=one.body.top_k, collection=one.collection, reranking=one.body.reranking)
    except DeadlineExceeded:
        raise
    except SightlineError:
        return {}
    pairs = zip(search_by_number.items(), answers, strict=True)
    return {number: answer_body(search, answer) for (number, search), answer in pairs}


def _answer_or_error(sightline: Sightline, search: Search) -> AnswerBody | SightlineError:
    try:
        return answered(search, sightline)
    except DeadlineExceeded:
        raise
    except SightlineError as error:
        return error


def _embedding_together(sightline: Sightline, searches: Sequence[Search]) -> Sightline:
    """The same open store, for these searches one after the other. Raises `CollectionNotFound`."""
    texts_by_collection: dict[CollectionId, list[str]] = {}
    for search in searches:
        collection_id = sightline.collection(search.collection).collection_id
        texts = texts_by_collection.setdefault(collection_id, [])
        texts += [part.text for part in search.query.parts if isinstance(part, Words)]
    return Sightline(sightline.store, encoders=_TogetherShelf(sightline.encoders, texts_by_collection), settings=sightline.settings)
