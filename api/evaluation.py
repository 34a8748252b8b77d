"""How well pictures are found: an encoder measured on a source of captioned pictures, or a collection on its own captions.

Without judgements of a person, captions judge: what belongs to a caption is its own picture and no other, as the papers on CLIP have it,
also where another picture would fit. Where every picture has a class, each class is asked by name and all of its pictures are right.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from indexer.banks import collection_banks
from indexer.in_memory import embed_pictures, scan_pictures
from indexer.options import IndexOptions
from indexer.progress import SkippedInput
from indexer.sources import Source, SourceItem
from search.comparison import Comparison, compare_runs
from search.engine import SearchEngine, Stopwatch
from search.evaluation import MIN_DEPTH, MeasuredRun, Run
from search.evaluator import Advanced, Embedded, ask_collection, checked_embeddings, embed_judged, image_to_text, tell_nobody, text_to_image
from search.judgements import DescribedPicture, JudgedBy, JudgedTexts, judged_texts, with_known_keys
from sightline.encoders.encoder import Encoder
from sightline.errors import InvalidInput, InvalidSource
from sightline.storage.records import CollectionRecord, ItemRecord
from sightline.storage.store import Store
from sightline.types import ItemId, Modality

logger = logging.getLogger(__name__)

DEFAULT_DEPTH = 100
MAX_DEPTH = 1000  # as deep as TREC's own runs
_ITEMS_AT_ONCE = 10_000  # records read by one query


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """What is asked and how much of each answer is kept."""

    judged: JudgedTexts | None = None  # None: the captions or classes of the pictures
    depth: int = DEFAULT_DEPTH  # keys a query that runs keep
    advanced: Advanced = tell_nobody

    def __post_init__(self) -> None:
        if not MIN_DEPTH <= self.depth <= MAX_DEPTH:
            raise InvalidInput(f"the depth of a run is {self.depth}; it must be between {MIN_DEPTH} and {MAX_DEPTH:,}")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Measured runs over one set of pictures."""

    name: str  # of the source or collection
    encoder_name: str
    encoder_fingerprint: str
    judged_by: JudgedBy
    num_pictures: int
    depth: int
    runs: tuple[MeasuredRun, ...]
    skipped: tuple[SkippedInput, ...]  # what of the source cannot be read
    notes: tuple[str, ...]

    def compared_with(self, former: Mapping[str, Run]) -> tuple[Comparison, ...]:
        """Each run with the former one of its name; a single former run of another name is taken for the first one here.

        Raises `InvalidInput` where no name fits or two runs share no query.
        """
        names = [measured.run.name for measured in self.runs]
        if len(former) == 1 and not any(name in former for name in names):
            former = dict(zip(names, former.values(), strict=False))
        if not any(name in former for name in names):
            raise InvalidInput(f"the former runs are called {', '.join(sorted(former))}; the present ones {', '.join(names)}")
        return tuple(
            compare_runs(measured.run, former[measured.run.name], judgements=measured.judgements)
            for measured in self.runs
            if measured.run.name in former
        )


def evaluate_source(source: Source, encoder: Encoder, *, options: EvaluationOptions, index_options: IndexOptions) -> Evaluation:
    """Embed the pictures of a source into memory and ask for them, with exact search; nothing is stored.

    The encoder's banks of queries, where it brings some, take the hubness bias off as in a collection that is made with it. With captions,
    pictures also ask for their captions. Raises `InvalidSource`, `InvalidInput` where nothing can be asked for, and `InvalidCheckpoint`
    where the encoder gives what are no numbers.
    """
    scanned = scan_pictures(source)
    _judged([_described(item) for item in scanned.items], options, name=source.name)  # what cannot be asked is said before hours are spent
    encoder.load(Modality.IMAGE)
    clock = Stopwatch()
    found = embed_pictures(
        scanned.items,
        encoder,
        options=index_options,
        advanced=lambda num_done, num_all: options.advanced("embedding pictures", num_done, num_all),
    )
    embed_ms = clock.lap_ms() / max(1, len(found.items))
    skipped = scanned.skipped + found.skipped
    if not found.items:
        raise InvalidSource(
            f"{source.name} holds no picture that can be read" + "".join(f"; {one.key}: {one.cause}" for one in skipped[:3])
        )
    described = [_described(item) for item in found.items]
    pictures = Embedded([picture.key for picture in described], checked_embeddings(found.embeddings, encoder), embed_ms)
    judged, notes = _judged(described, options, name=source.name)
    texts = embed_judged(judged, encoder, advanced=options.advanced)
    banks = encoder.query_banks
    runs = [text_to_image(judged, texts=texts, pictures=pictures.corrected(banks.get(Modality.IMAGE)), depth=options.depth)]
    if judged.judged_by is JudgedBy.CAPTIONS:
        captions = texts.corrected(banks.get(Modality.TEXT))
        runs.append(image_to_text(described, pictures=pictures, captions=captions, depth=options.depth))
    logger.info("evaluated %s with %s: %d pictures, %d texts", source.name, encoder.name, len(described), len(judged.text_by_query))
    return Evaluation(
        name=source.name,
        encoder_name=encoder.name,
        encoder_fingerprint=encoder.fingerprint,
        judged_by=judged.judged_by,
        num_pictures=len(described),
        depth=options.depth,
        runs=tuple(runs),
        skipped=skipped,
        notes=notes,
    )


def evaluate_collection(
    store: Store, record: CollectionRecord, *, engine: SearchEngine, encoder: Encoder, options: EvaluationOptions
) -> Evaluation:
    """Ask a collection for its pictures as a person would; `encoder` must be the collection's own.

    With captions, the stored embeddings of the pictures also ask for their captions, which are in no collection and so are searched in
    memory. Raises `InvalidInput` where nothing can be asked for, and what `SearchEngine.search` raises.
    """
    name = f"collection {record.name}"
    item_ids, described = _pictures_of(store, record)
    judged, notes = _judged(described, options, name=name)
    runs = [
        ask_collection(engine, judged, collection=record.name, num_pictures=len(described), depth=options.depth, advanced=options.advanced)
    ]
    if judged.judged_by is JudgedBy.CAPTIONS:
        embeddings = store.snapshot(record.collection_id).embeddings(np.asarray(item_ids, dtype=np.int64))
        pictures = Embedded([picture.key for picture in described], embeddings, embed_ms=0.0)
        bank = collection_banks(store, record.collection_id).get(Modality.TEXT)
        captions = embed_judged(judged, encoder, advanced=options.advanced).corrected(bank)
        runs.append(image_to_text(described, pictures=pictures, captions=captions, depth=options.depth))
    logger.info("evaluated %s with %s: %d pictures, %d texts", name, encoder.name, len(described), len(judged.text_by_query))
    return Evaluation(
        name=name,
        encoder_name=encoder.name,
        encoder_fingerprint=encoder.fingerprint,
        judged_by=judged.judged_by,
        num_pictures=len(described),
        depth=options.depth,
        runs=tuple(runs),
        skipped=(),
        notes=notes,
    )


def _judged(described: Sequence[DescribedPicture], options: EvaluationOptions, *, name: str) -> tuple[JudgedTexts, tuple[str, ...]]:
    if options.judged is None:
        return judged_texts(described, name=name), ()
    return with_known_keys(options.judged, [picture.key for picture in described], name=name)


def _pictures_of(store: Store, record: CollectionRecord) -> tuple[list[ItemId], list[DescribedPicture]]:
    """Ids and descriptions of the collection's pictures, by id."""
    known = (item.item_id for item in store.known_items(record.collection_id) if item.modality is Modality.IMAGE)
    item_ids: list[ItemId] = []
    described: list[DescribedPicture] = []
    while page := list(islice(known, _ITEMS_AT_ONCE)):
        for item_id, item in sorted(store.items(record.collection_id, page).items()):
            item_ids.append(item_id)
            described.append(_described(item))
    return item_ids, described


def _described(item: SourceItem | ItemRecord) -> DescribedPicture:
    class_name = item.metadata.get("class")
    captions = tuple(dict.fromkeys(item.text.split("\n"))) if item.text else ()
    return DescribedPicture(item.key, captions, None if class_name is None else str(class_name))
