"""Queries to tune an index with, of the kind that people will ask.

Texts lie beside the pictures' distribution, not in it: an index whose search parameters were tuned with stored pictures misses its recall
by far when it is asked by words. So pictures are tuned for with sentences and single words, written here from parts because a
collection of photographs seldom has captions.
"""

import itertools
import logging
from collections.abc import Callable

from sightline.encoders.encoder import Encoder
from sightline.errors import EncoderUnavailable
from sightline.storage.index_plan import EXACT_MAX_ROWS
from sightline.storage.records import CollectionRecord
from sightline.storage.store import Store
from sightline.types import Embeddings, Modality

logger = logging.getLogger(__name__)

NUM_QUERIES = 256

_SUBJECTS = (
    "a dog", "two children", "a woman in a red dress", "an old man", "a cat", "a crowd of people", "a bicycle", "a sailing boat",
    "a birthday cake", "a mountain", "a bird", "a football player", "a guitar", "a train", "a flower", "a house",
)  # fmt: skip
_SCENES = (
    "", "on the beach", "in the snow", "at night", "in a garden", "on a street", "in the kitchen", "by a lake",
    "in front of a window", "in the rain", "on a table", "in a forest", "at a party", "seen from above", "in black and white", "close up",
)  # fmt: skip


def query_texts() -> list[str]:
    """`NUM_QUERIES` texts, from single subjects to whole phrases, always the same."""
    return [f"{subject} {scene}".strip() for subject, scene in itertools.product(_SUBJECTS, _SCENES)]


def tuning_queries(
    store: Store, record: CollectionRecord, encoder_of: Callable[[], Encoder], *, min_rows: int = EXACT_MAX_ROWS
) -> Embeddings | None:
    """Embeddings of `query_texts`, (256, embedding_dim), or None where no picture index will be built.

    `encoder_of` is called only where they are wanted, since loading networks takes seconds; where the encoder cannot be had the index is
    tuned with stored rows instead.
    """
    if store.snapshot(record.collection_id).num_items(Modality.IMAGE) <= min_rows:
        return None
    try:
        return encoder_of().embed_texts(query_texts())
    except EncoderUnavailable as error:
        logger.warning("collection %s: its index is tuned with stored pictures, not with texts: %s", record.name, error)
        return None
