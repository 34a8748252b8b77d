"""An answer as a table, as JSON, or as paths for a pipe."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from api.cli.guard import complain
from indexer.wording import counted
from sightline.errors import InvalidInput

if TYPE_CHECKING:
    from rich.table import Table

    from api.library import Sightline
    from search.engine import Answer, Hit
    from search.explain import HitExplanation

CAPTION_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class DrawnExplanation:
    """A hit's explanation, where it is drawn, and what is missing of it."""

    explanation: "HitExplanation"
    path: Path | None
    why_not: str | None


def print_answer(answer: "Answer") -> None:
    """A table of the hits with a line of figures below, on standard output."""
    from api.cli.console import stdout_console

    console = stdout_console()
    if answer.hits:
        console.print(_hit_table(answer.hits))
    console.print(footer(answer), soft_wrap=True)


def footer(answer: "Answer") -> str:
    """How many hits, how long each stage took, and how they were found."""
    stages = answer.timings
    return (
        f"{counted(len(answer.hits), 'hit')} in {stages.total_ms:.1f} ms (embedding {stages.embed_ms:.1f}, "
        f"retrieval {stages.retrieve_ms:.1f}, {_reranking_time(answer)}metadata {stages.metadata_ms:.1f}); {answer.plan}"
        f"{_second_look(answer)}"
    )


def _reranking_time(answer: "Answer") -> str:
    return "" if answer.reranked is None else f"second look {answer.timings.rerank_ms:.1f}, "


def _second_look(answer: "Answer") -> str:
    if answer.reranked is None:
        return ""
    return f"; second look at {answer.reranked.num_read} of {counted(answer.reranked.depth, 'candidate')}"


def show_notes(answer: "Answer") -> None:
    """What the person who asked should know, on standard error."""
    for note in answer.notes:
        complain(f"note: {note}")


def write_paths(answer: "Answer", *, end: bytes) -> None:
    """The location of each hit and `end`, as the bytes that the file system knows it by."""
    sys.stdout.flush()
    for hit in answer.hits:
        sys.stdout.buffer.write(os.fsencode(hit.location) + end)
    sys.stdout.buffer.flush()


def explain_answer(sightline: "Sightline", answer: "Answer", *, folder: Path) -> "list[DrawnExplanation]":
    """Explains every hit and draws what can be drawn as `RANK-NAME.png` into the folder, which is made where there is none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"{folder}: no folder for the drawings can be made there: {error.strerror}") from error
    drawn = []
    for explanation in sightline.explain_hits(answer):
        hit = explanation.hit
        path = folder / f"{hit.rank:03}-{Path(hit.key).stem[:80]}.png"
        why_not = explanation.why_not
        if explanation.match is not None:
            why_not = sightline.write_heat_map(explanation, path, collection=answer.collection, query=str(answer.query))
            why_not = None if why_not is None else f"{hit.location}: {why_not}; the heat is drawn without it"
        drawn.append(DrawnExplanation(explanation, None if explanation.match is None else path, why_not))
    return drawn


def print_explanations(explanations: "Sequence[DrawnExplanation]") -> None:
    """Where the drawings are, and the words of each hit by what they found."""
    from api.cli.console import cell, new_table, stdout_console

    table = new_table("rank", "words by what they found", "drawn", right=("rank",))
    for each in explanations:
        match = each.explanation.match
        words = [] if match is None else sorted(match.words, key=lambda word: -word.share)[:6]
        told = ", ".join(f"{word.text} {word.share:.0%}" for word in words) or None
        table.add_row(cell(each.explanation.hit.rank), cell(told), cell(each.path))
    for why_not in dict.fromkeys(each.why_not for each in explanations if each.why_not is not None):  # what hits have in common, once
        complain(f"note: {why_not}")
    if any(each.explanation.match is not None for each in explanations):
        stdout_console().print(table)


def answer_as_json(answer: "Answer", explanations: "Sequence[DrawnExplanation] | None" = None) -> dict[str, Any]:
    """The answer as an object; similarities are cosines, times milliseconds."""
    from api.cli.explanations import hit_as_json

    hits: list[Any] = list(answer.hits)
    if explanations is not None:
        hits = [
            asdict(hit) | hit_as_json(each.explanation) | {"drawn": None if each.path is None else str(each.path)}
            for hit, each in zip(hits, explanations, strict=True)
        ]
    return {
        "query": str(answer.query),
        "collection": answer.collection,
        "hits": hits,
        "plan": answer.plan,
        "notes": list(answer.notes),
        "timings": answer.timings,
        "reranked": answer.reranked,
    }


def _hit_table(hits: Sequence["Hit"]) -> "Table":
    from api.cli.console import cell, new_table, shortened

    is_merged = any(hit.centred_similarity is not None for hit in hits)
    has_captions = any(hit.text for hit in hits)
    is_reranked = any(hit.first_rank is not None for hit in hits)
    figures = _figures(hits)
    second = ["was", "match"] if is_reranked else []
    columns = ["rank", *second, *figures, *(["modality"] if is_merged else []), "file", *(["caption"] if has_captions else [])]
    table = new_table(*columns, right=("rank", *second, *figures))
    for hit in hits:
        cells = [cell(hit.rank), *([cell(hit.first_rank or ""), cell(_percent(hit.match_probability))] if is_reranked else [])]
        cells += [*(cell(f"{figure(hit):.3f}") for figure in figures.values())]
        cells += [cell(hit.modality)] if is_merged else []
        cells += [cell(_nearby(hit.location))]
        cells += [cell(shortened(hit.text or "", num_characters=CAPTION_CHARACTERS))] if has_captions else []
        table.add_row(*cells)
    return table


def _percent(probability: float | None) -> str:
    return "not read" if probability is None else f"{probability:.0%}"


def _figures(hits: Sequence["Hit"]) -> dict[str, Callable[["Hit"], float]]:
    """Columns of figures; the list is ordered by the last of them."""
    if any(hit.centred_similarity is not None for hit in hits):
        return {"similarity (centred)": lambda hit: hit.ranking_similarity}
    if any(hit.adjusted_similarity is not None for hit in hits):
        return {"similarity": lambda hit: hit.similarity, "less bias": lambda hit: hit.ranking_similarity}
    return {"similarity": lambda hit: hit.similarity}


def _nearby(location: str) -> str:
    """The path from the working folder when the file is below it, else the location as it is."""
    path = Path(location)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else location
