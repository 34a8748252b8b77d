"""Judged queries asked, and what was found as measured runs: over embeddings in memory, or over a collection as it is searched."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from search.embed import checked_embeddings
from search.engine import SearchEngine, Stopwatch
from search.evaluation import MeasuredRun, QueryTimes, Ranking, Run
from search.exact_ranking import rank_exactly
from search.judgements import DescribedPicture, JudgedTexts, judged_pictures
from search.query import Query, Words
from sightline.encoders.encoder import Encoder
from sightline.encoders.query_bank import QueryBank
from sightline.types import Embeddings, Modality

TEXT_TO_IMAGE = "text-to-image"
IMAGE_TO_TEXT = "image-to-text"

_TEXTS_AT_ONCE = 1024
"""Enough for the encoder to sort by length, and a report of progress every second or so."""

Advanced = Callable[[str, int, int], None]
"""Told what is being done, and how much of how much of it is done."""


def tell_nobody(what: str, num_done: int, num_all: int) -> None:
    """Nothing: for who does not want to know how far it is."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """What can be asked or found, in the order of its rows."""

    keys: Sequence[str]  # of pictures, or the ids of queries and captions
    embeddings: Embeddings  # (keys, embedding_dim)
    embed_ms: float  # mean milliseconds it took to embed one, in batches; 0 where the embeddings were there already
    taken_off: NDArray[np.float32] | None = None  # (keys,), of its hubness bias when it is found across modalities; None: nothing

    def corrected(self, bank: QueryBank | None) -> "Embedded":
        """The same, ranked less their hubness biases from `bank`, as far as its strength says; None: as they are."""
        if bank is None or not bank.strength:
            return self
        return replace(self, taken_off=np.float32(bank.strength) * bank.biases(self.embeddings))


def embed_judged(
    judged: JudgedTexts, encoder: Encoder, *, advanced: Advanced, embed_texts: Callable[[Sequence[str]], Embeddings] | None = None
) -> Embedded:
    """The texts of the queries, by the encoder or by `embed_texts`, which keeps more of them. Raises as `checked_embeddings`."""
    texts = list(judged.text_by_query.values())
    encoder.load(Modality.TEXT)
    embed = embed_texts or encoder.embed_texts
    clock = Stopwatch()
    parts: list[Embeddings] = []
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        parts.append(embed(texts[start : start + _TEXTS_AT_ONCE]))
        advanced("embedding texts", min(start + _TEXTS_AT_ONCE, len(texts)), len(texts))
    embeddings = checked_embeddings(np.concatenate(parts), encoder)
    return Embedded(list(judged.text_by_query), embeddings, clock.lap_ms() / len(texts))


def text_to_image(judged: JudgedTexts, *, texts: Embedded, pictures: Embedded, depth: int) -> MeasuredRun:
    """Judged texts against pictures in memory; `texts` are those of `judged`, in its order."""
    run, search_ms = _asked_exactly(texts, pictures, name=TEXT_TO_IMAGE, depth=depth)
    times = QueryTimes(texts.embed_ms, search_ms)
    return MeasuredRun(run, judged.judgements, len(pictures.keys), times, plan=_plan_of_exact(pictures))


def image_to_text(described: Sequence[DescribedPicture], *, pictures: Embedded, captions: Embedded, depth: int) -> MeasuredRun:
    """Every picture that has captions against all captions in memory; `pictures` has a row for each of `described`, in its order."""
    judgements = judged_pictures(described)
    rows = [row for row, picture in enumerate(described) if picture.captions]
    asked = Embedded([pictures.keys[row] for row in rows], pictures.embeddings[rows], pictures.embed_ms)
    run, search_ms = _asked_exactly(asked, captions, name=IMAGE_TO_TEXT, depth=depth)
    times = QueryTimes(asked.embed_ms, search_ms)
    return MeasuredRun(run, judgements, len(captions.keys), times, plan=_plan_of_exact(captions))


def ask_collection(
    engine: SearchEngine, judged: JudgedTexts, *, collection: str, num_pictures: int, depth: int, advanced: Advanced
) -> MeasuredRun:
    """Judged texts against the pictures of a collection, one query after the other as a person asks them.

    Raises what `SearchEngine.search` raises.
    """
    queries = [Query((Words(text),), modality=Modality.IMAGE) for text in judged.text_by_query.values()]
    answer = engine.search(
        queries[0], collection=collection, top_k=depth, reranking=None
    )  # opens files and loads libraries, and is not timed
    rankings: dict[str, Ranking] = {}
    embed_ms = search_ms = 0.0
    for number, (query_id, query) in enumerate(zip(judged.text_by_query, queries, strict=True), start=1):
        answer = engine.search(query, collection=collection, top_k=depth, reranking=None)
        rankings[query_id] = Ranking(tuple(hit.key for hit in answer), tuple(hit.ranking_similarity for hit in answer))
        embed_ms += answer.timings.embed_ms
        search_ms += answer.timings.retrieve_ms + answer.timings.metadata_ms
        if number % 100 == 0 or number == len(queries):
            advanced("asking", number, len(queries))
    times = QueryTimes(embed_ms / len(queries), search_ms / len(queries))
    return MeasuredRun(Run(TEXT_TO_IMAGE, rankings), judged.judgements, num_pictures, times, plan=answer.plan)


def _asked_exactly(asked: Embedded, candidates: Embedded, *, name: str, depth: int) -> tuple[Run, float]:
    """The run, and mean milliseconds of the search."""
    clock = Stopwatch()
    rankings = rank_exactly(
        asked.embeddings,
        candidates.embeddings,
        queries=asked.keys,
        keys=candidates.keys,
        depth=depth,
        taken_off=candidates.taken_off,
    )
    return Run(name, rankings), clock.lap_ms() / len(asked.keys)


def _plan_of_exact(candidates: Embedded) -> str:
    return f"exact over {len(candidates.keys):,} rows in memory" + (", hubness bias taken off" if candidates.taken_off is not None else "")
