"""Explanations and matches as tables, as heat in a terminal, and as JSON."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.errors import EncoderUnavailable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.table import Table

    from api.matching import PictureMatches
    from search.explain import HitExplanation, ItemExplanation, MatchExplanation

SHADES = " ·░▒▓█"
"""From nothing to the most, one step for each sixth."""

BAR_CHARACTERS = 24


def print_item(explanation: "ItemExplanation") -> None:
    """Figures, the words with what each found, the heat as shades, and the times."""
    from api.cli.console import printable, stdout_console
    from api.explaining import facts_told, ranks_told

    console = stdout_console()
    match, stages = explanation.match, explanation.timings
    ranks = f"{ranks_told(explanation.rank, explanation.first_rank)} of {explanation.num_candidates:,}"
    console.print(printable(explanation.location), soft_wrap=True)
    console.print(facts_told(match.match_probability, similarity=explanation.similarity, ranks=ranks), soft_wrap=True)
    console.print()
    _print_match(match)
    console.print(
        f"ranked in {stages.total_ms:.1f} ms (embedding {stages.embed_ms:.1f}, retrieval {stages.retrieve_ms:.1f}, "
        f"second look {stages.rerank_ms:.1f}, metadata {stages.metadata_ms:.1f})",
        soft_wrap=True,
    )


def print_matches(found: "PictureMatches") -> None:
    """A row for each text, and for one alone its words and its heat."""
    from api.cli.console import cell, new_table, stdout_console

    has_probability = any(each.match_probability is not None for each in found.matches)
    numbers = ("similarity", *(["match"] if has_probability else []))
    table = new_table("text", *numbers, right=numbers)
    for each in found.matches:
        probability = [] if each.match_probability is None else [cell(f"{each.match_probability:.0%}")]
        table.add_row(cell(each.text), cell(f"{each.similarity:.3f}"), *probability)
    stdout_console().print(table)
    if len(found.matches) == 1 and found.matches[0].explanation is not None:
        stdout_console().print()
        _print_match(found.matches[0].explanation)


def write_best_match(found: "PictureMatches", path: Path, *, max_pixels: int) -> None:
    """Draws the text that matches best. Raises `EncoderUnavailable` where no fusion encoder is there to explain."""
    from api.explaining import facts_told
    from api.heat_map import Explained, write_heat_map

    explained = [each for each in found.matches if each.explanation is not None]
    if not explained:
        name = found.encoder.name
        raise EncoderUnavailable(
            f"nothing here explains: that takes a fusion encoder of `sightline train fusion` for {name}, named with --fusion FOLDER"
        )
    best = max(explained, key=lambda each: each.explanation.match_logit if each.explanation is not None else 0.0)
    assert best.explanation is not None
    facts = facts_told(best.explanation.match_probability, similarity=best.similarity, ranks=None)
    location = str(found.picture) if isinstance(found.picture, Path) else ""
    drawn = Explained(best.text, location, (facts, location), best.explanation)
    write_heat_map(drawn, path, encoder=found.encoder, max_pixels=max_pixels)


def matches_as_json(found: "PictureMatches") -> dict[str, Any]:
    """The matches as an object, in the order of the texts."""
    matches = [
        {
            "text": each.text,
            "similarity": each.similarity,
            "match_logit": each.match_logit,
            "match_probability": each.match_probability,
            "explanation": None if each.explanation is None else match_as_json(each.explanation),
        }
        for each in found.matches
    ]
    picture = str(found.picture) if isinstance(found.picture, Path) else None
    return {"picture": picture, "encoder": found.encoder.name, "matches": matches, "notes": list(found.notes)}


def item_as_json(explanation: "ItemExplanation") -> dict[str, Any]:
    """The explanation as an object; relevance is a list of rows of the grid."""
    return {
        "query": explanation.query,
        "collection": explanation.collection,
        "key": explanation.key,
        "location": explanation.location,
        "similarity": explanation.similarity,
        "adjusted_similarity": explanation.adjusted_similarity,
        "first_rank": explanation.first_rank,
        "rank": explanation.rank,
        "num_candidates": explanation.num_candidates,
        "reranked": explanation.reranked,
        "timings": explanation.timings,
        "notes": list(explanation.notes),
        "match": match_as_json(explanation.match),
    }


def hit_as_json(explanation: "HitExplanation") -> dict[str, Any]:
    """What a hit's object gains by an explanation."""
    return {
        "match": None if explanation.match is None else match_as_json(explanation.match),
        "why_not_explained": explanation.why_not,
    }


def match_as_json(match: "MatchExplanation") -> dict[str, Any]:
    """Words in the order of the query."""
    return {
        "match_logit": match.match_logit,
        "match_probability": match.match_probability,
        "words": [{"word": word.text, "share": word.share, "relevance": word.relevance.tolist()} for word in match.words],
        "relevance": match.relevance.tolist(),
    }


def _print_match(match: "MatchExplanation") -> None:
    from api.cli.console import stdout_console

    console = stdout_console()
    console.print(_table_of_words(match))
    console.print()
    for line in shaded(match.relevance):
        console.print(f"  {line}", soft_wrap=True)
    console.print()


def _table_of_words(match: "MatchExplanation") -> "Table":
    from api.cli.console import cell, new_table

    table = new_table("word", "share", "", right=("share",))
    longest = max((word.share for word in match.words), default=0.0)
    for word in match.words:
        bar = "█" * round(BAR_CHARACTERS * word.share / longest) if longest > 0 else ""
        table.add_row(cell(word.text), cell(f"{word.share:.0%}"), cell(bar))
    return table


def shaded(relevance: "NDArray[np.float32]") -> list[str]:
    """Rows of (rows, columns) as characters, two for each patch, which is about as wide as high in a terminal."""
    highest = float(relevance.max())
    steps = [[min(len(SHADES) - 1, int(value / highest * len(SHADES))) if highest > 0 else 0 for value in row] for row in relevance]
    return ["".join(SHADES[step] * 2 for step in row) for row in steps]
