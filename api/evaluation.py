"""How well pictures are found: an encoder measured on a source of captioned pictures, or a collection on its own captions.

Without judgements of a person, captions judge: what belongs to a caption is its own picture and no other, as the papers on CLIP have it,
also where another picture would fit. Where every picture has a class, each class is asked by name and all of its pictures are right.

Where a fusion encoder fits, each direction is measured twice: the first stage alone, and its first candidates after a second look.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from api.encoder_shelf import EncoderShelf
from indexer.banks import collection_banks
from indexer.in_memory import embed_pictures, scan_pictures
from indexer.options import IndexOptions
from indexer.progress import SkippedInput
from indexer.sources import Source, SourceItem, SourceKind, open_source
from search.comparison import Comparison, compare_runs
from search.embed import checked_embeddings
from search.engine import SearchEngine, Stopwatch
from search.evaluation import MIN_DEPTH, MeasuredRun, Metric, Run
from search.evaluator import Advanced, Embedded, ask_collection, embed_judged, image_to_text, tell_nobody, text_to_image
from search.judgements import DescribedPicture, JudgedBy, JudgedTexts, judged_texts, with_known_keys
from search.match_inputs import KnownPatches, TokenKeeper, patches_in_memory, patches_of_snapshot
from search.readers import reader_of_patches
from search.rerank import DEFAULT_DEPTH as DEFAULT_RERANK_DEPTH
from search.rerank import Reranking
from search.second_stage import MeasuredReranking, ReadDepths, SecondStage
from sightline.encoders.encoder import Encoder
from sightline.errors import EncoderUnavailable, InvalidInput, InvalidSource, PatchesNotFound
from sightline.settings import Settings
from sightline.storage.records import CollectionRecord, ItemRecord
from sightline.storage.store import Store
from sightline.types import ItemId, Modality

if TYPE_CHECKING:
    from sightline.encoders.blip_matcher import BlipMatcher
    from sightline.encoders.matcher import FusionMatcher

logger = logging.getLogger(__name__)

DEFAULT_DEPTH = 100
MAX_DEPTH = 1000  # as deep as TREC's own runs
_ITEMS_AT_ONCE = 10_000  # records read by one query


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """What is asked, how much of each answer is kept, and how much of it is read again. Raises `InvalidInput` for what makes no sense."""

    judged: JudgedTexts | None = None  # None: the captions or classes of the pictures
    depth: int = DEFAULT_DEPTH  # keys a query that runs keep
    rerank_depth: int | None = DEFAULT_RERANK_DEPTH  # candidates of the second look, where a fusion encoder fits; None: there is none
    curve_depth: int | None = None  # how deep its curve goes; None: to `rerank_depth`, which costs nothing more
    advanced: Advanced = tell_nobody

    def __post_init__(self) -> None:
        if not MIN_DEPTH <= self.depth <= MAX_DEPTH:
            raise InvalidInput(f"the depth of a run is {self.depth}; it must be between {MIN_DEPTH} and {MAX_DEPTH:,}")
        for rerank_depth in (self.rerank_depth, self.curve_depth):
            if rerank_depth is not None:
                Reranking(depth=rerank_depth)  # raises for a depth that a search would not take
        if self.curve_depth is not None and self.rerank_depth is None:
            raise InvalidInput("a curve over rerank depths was asked for and no second look; leave one of the two")

    @property
    def read_depths(self) -> ReadDepths | None:
        """How many candidates a second look reads; None where there is none."""
        if self.rerank_depth is None:
            return None
        return ReadDepths(self.rerank_depth, max(self.rerank_depth, self.curve_depth or 0))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Measured runs over one set of pictures."""

    name: str  # of the source or collection
    encoder_name: str
    encoder_fingerprint: str
    judged_by: JudgedBy
    num_pictures: int
    depth: int
    runs: tuple[MeasuredRun, ...]  # after each of the first stage the reranked one, where there is one
    skipped: tuple[SkippedInput, ...]  # what of the source cannot be read
    notes: tuple[str, ...]
    fusion_fingerprint: str | None = None  # of what reranked
    rerankings: tuple[MeasuredReranking, ...] = ()  # one a direction

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


def measure_encoder(
    source: Path | str,
    encoders: EncoderShelf,
    *,
    settings: Settings,
    kind: SourceKind | None = None,
    options: EvaluationOptions | None = None,
) -> Evaluation:
    """As `Sightline.evaluate`, where there is no store."""
    opened = open_source(str(source), kind)
    options = options or EvaluationOptions()
    encoder = encoders.for_new_collection()
    matcher = None if options.rerank_depth is None else encoders.matcher_of(encoder, where=opened.name)
    index_options = IndexOptions.from_settings(settings)
    return evaluate_source(opened, encoder, options=options, index_options=index_options, matcher=matcher)


def evaluate_source(
    source: Source,
    encoder: Encoder,
    *,
    options: EvaluationOptions,
    index_options: IndexOptions,
    matcher: "FusionMatcher | BlipMatcher | None" = None,
) -> Evaluation:
    """Embed the pictures of a source into memory and ask for them, with exact search; nothing is stored.

    The encoder's banks of queries, where it brings some, take the hubness bias off as in a collection that is made with it. With captions,
    pictures also ask for their captions. `matcher` reads the first candidates again, from patches as they would be stored: 13.7 kB of
    memory a picture. Raises `InvalidSource`, `InvalidInput` where nothing can be asked for, `InvalidCheckpoint` where a network gives what
    are no numbers, and `EncoderUnavailable` where a curve is wanted and there is no matcher.
    """
    patch_matcher, notes = _matcher_in_use(matcher, options, encoder=encoder)
    scanned = scan_pictures(source)
    _judged([_described(item) for item in scanned.items], options, name=source.name)  # what cannot be asked is said before hours are spent
    encoder.load(Modality.IMAGE)
    clock = Stopwatch()
    found = embed_pictures(
        scanned.items,
        encoder,
        options=index_options,
        advanced=lambda num_done, num_all: options.advanced("embedding pictures", num_done, num_all),
        matcher=patch_matcher,
    )
    embed_ms = clock.lap_ms() / max(1, len(found.items))
    skipped = scanned.skipped + found.skipped
    if not found.items:
        raise InvalidSource(
            f"{source.name} holds no picture that can be read" + "".join(f"; {one.key}: {one.cause}" for one in skipped[:3])
        )
    described = [_described(item) for item in found.items]
    pictures = Embedded([picture.key for picture in described], checked_embeddings(found.embeddings, encoder), embed_ms)
    judged, notes_on_keys = _judged(described, options, name=source.name)
    patches = None if found.patches is None else patches_in_memory(pictures.keys, found.patches)
    texts, stage = _embedded_texts(judged, encoder, patches, patch_matcher, options)
    banks = encoder.query_banks
    depth = options.depth if stage is None else max(options.depth, stage.depths.deepest)
    runs = [text_to_image(judged, texts=texts, pictures=pictures.corrected(banks.get(Modality.IMAGE)), depth=depth)]
    if judged.judged_by is JudgedBy.CAPTIONS:
        captions = texts.corrected(banks.get(Modality.TEXT))
        runs.append(image_to_text(described, pictures=pictures, captions=captions, depth=depth))
    logger.info("evaluated %s with %s: %d pictures, %d texts", source.name, encoder.name, len(described), len(judged.text_by_query))
    evaluation = Evaluation(
        name=source.name,
        encoder_name=encoder.name,
        encoder_fingerprint=encoder.fingerprint,
        judged_by=judged.judged_by,
        num_pictures=len(described),
        depth=options.depth,
        runs=tuple(runs),
        skipped=skipped,
        notes=notes_on_keys + notes,
    )
    return evaluation if stage is None else _looked_at_again(evaluation, stage, options)


def evaluate_collection(
    store: Store,
    record: CollectionRecord,
    *,
    engine: SearchEngine,
    encoder: Encoder,
    options: EvaluationOptions,
    matcher: "FusionMatcher | BlipMatcher | None" = None,
) -> Evaluation:
    """Ask a collection for its pictures as a person would; `encoder` must be the collection's own, and `matcher` fit it.

    With captions, the stored embeddings of the pictures also ask for their captions, which are in no collection and so are searched in
    memory. `matcher` reads the first candidates again, from the stored patches; where no picture has any, a note says how to add them.
    Raises `InvalidInput` where nothing can be asked for, what `SearchEngine.search` raises, and where a curve is wanted that cannot be
    drawn `EncoderUnavailable` or `PatchesNotFound`.
    """
    patch_matcher, notes = _matcher_in_use(matcher, options, encoder=encoder)
    name = f"collection {record.name}"
    ids, described = _pictures_of(store, record)
    item_ids = np.asarray(ids, dtype=np.int64)
    judged, notes_on_keys = _judged(described, options, name=name)
    keys = [picture.key for picture in described]
    snapshot = store.snapshot(record.collection_id)
    patches = None
    if patch_matcher is not None:
        patches = patches_of_snapshot(snapshot, keys, item_ids, fusion_fingerprint=patch_matcher.fingerprint)
        notes += _notes_on_patches(patches, options, collection=record.name)
    texts, stage = _embedded_texts(judged, encoder, patches, patch_matcher, options)
    depth = options.depth if stage is None else max(options.depth, stage.depths.deepest)
    runs = [ask_collection(engine, judged, collection=record.name, num_pictures=len(described), depth=depth, advanced=options.advanced)]
    if judged.judged_by is JudgedBy.CAPTIONS:
        pictures = Embedded(keys, snapshot.embeddings(item_ids), embed_ms=0.0)
        captions = texts.corrected(collection_banks(store, record.collection_id).get(Modality.TEXT))
        runs.append(image_to_text(described, pictures=pictures, captions=captions, depth=depth))
    logger.info("evaluated %s with %s: %d pictures, %d texts", name, encoder.name, len(described), len(judged.text_by_query))
    evaluation = Evaluation(
        name=name,
        encoder_name=encoder.name,
        encoder_fingerprint=encoder.fingerprint,
        judged_by=judged.judged_by,
        num_pictures=len(described),
        depth=options.depth,
        runs=tuple(runs),
        skipped=(),
        notes=notes_on_keys + notes,
    )
    return evaluation if stage is None else _looked_at_again(evaluation, stage, options)


def _matcher_in_use(
    matcher: "FusionMatcher | BlipMatcher | None", options: EvaluationOptions, *, encoder: Encoder
) -> "tuple[FusionMatcher | None, tuple[str, ...]]":
    """What takes the second look, and a note where it cannot; None where none is wanted.

    Raises `EncoderUnavailable` where a curve is wanted and there will be none.
    """
    if options.rerank_depth is None:
        return None, ()
    patch_matcher = reader_of_patches(matcher)
    note = "" if matcher is None else f"{matcher.name} reads the pictures themselves, which an evaluation does not"
    if patch_matcher is None and options.curve_depth is not None:
        missing = note or f"no fusion encoder comes with {encoder.name}"
        raise EncoderUnavailable(
            f"{missing}, so there is no curve over rerank depths; train one (`sightline train fusion`) and name it with --fusion FOLDER"
        )
    return patch_matcher, (f"{note}: the first stage alone is measured",) if note and patch_matcher is None else ()


def _notes_on_patches(patches: KnownPatches, options: EvaluationOptions, *, collection: str) -> tuple[str, ...]:
    """What of the collection cannot be read again; raises `PatchesNotFound` where that leaves a wanted curve without a point."""
    remedy = f"`sightline patches {collection}` adds them"
    if patches.num_missing < len(patches.is_there):
        rest = "as candidates they keep their place, as queries their order"
        pictures = f"{patches.num_missing:,} of {len(patches.is_there):,} pictures have no patches: {rest}; {remedy}"
        return (pictures,) if patches.num_missing else ()
    told = f"no picture in collection {collection} has patches for the second look"
    if options.curve_depth is not None:
        raise PatchesNotFound(f"{told}, so there is no curve over rerank depths; {remedy}")
    return (f"{told}, so the first stage alone is measured; {remedy}",)


def _embedded_texts(
    judged: JudgedTexts, encoder: Encoder, patches: KnownPatches | None, matcher: "FusionMatcher | None", options: EvaluationOptions
) -> tuple[Embedded, SecondStage | None]:
    """The texts of the queries; with their tokens in a second stage, where there is something for it to read."""
    depths = options.read_depths
    if matcher is None or depths is None or patches is None or not patches.is_there.any():
        return embed_judged(judged, encoder, advanced=options.advanced), None
    keeper = TokenKeeper(encoder)
    texts = embed_judged(judged, encoder, advanced=options.advanced, embed_texts=keeper.embed_texts)
    return texts, SecondStage(matcher, keeper.kept(texts.keys), patches, depths)


def _looked_at_again(evaluation: Evaluation, stage: SecondStage, options: EvaluationOptions) -> Evaluation:
    """The evaluation with a reranked run beside each of its runs, which were deep enough for the second look and are cut."""
    metric = Metric.PRECISION_AT_10 if evaluation.judged_by is JudgedBy.CLASSES else Metric.HIT_RATE_AT_1
    rerankings = tuple(stage.look_at(run, metric=metric, kept=options.depth, advanced=options.advanced) for run in evaluation.runs)
    runs = tuple(run for reranking in rerankings for run in (reranking.first, reranking.reranked))
    return replace(evaluation, runs=runs, rerankings=rerankings, fusion_fingerprint=stage.matcher.fingerprint)


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
