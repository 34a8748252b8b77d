"""Many searches in one call: their words are embedded together, and each has an answer or a problem of its own."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from api.encoder_shelf import EncoderShelf
from api.http.searches import Search
from api.library import Sightline
from search.query import Words
from search.together import TextsTogether
from sightline.encoders.encoder import Encoder
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


def embedding_together(sightline: Sightline, searches: Sequence[Search]) -> Sightline:
    """The same open store, for these searches one after the other. Raises `CollectionNotFound`."""
    texts_by_collection: dict[CollectionId, list[str]] = {}
    for search in searches:
        collection_id = sightline.collection(search.collection).collection_id
        texts = texts_by_collection.setdefault(collection_id, [])
        texts += [part.text for part in search.query.parts if isinstance(part, Words)]
    return Sightline(sightline.store, encoders=_TogetherShelf(sightline.encoders, texts_by_collection), settings=sightline.settings)
