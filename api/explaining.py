"""Explanations made ready to be drawn: the lines below the picture."""

from api.heat_map import Explained
from search.explain import HitExplanation, ItemExplanation


def drawable(explanation: HitExplanation | ItemExplanation, *, query: str) -> Explained:
    """What a heat map shows of it; a hit must have been explained."""
    match explanation:
        case HitExplanation(hit, match):
            assert match is not None
            ranks = ranks_told(hit.rank, hit.first_rank)
            facts = facts_told(match.match_probability, similarity=hit.similarity, ranks=ranks)
            return Explained(query, hit.location, (facts, hit.location), match, hit.width, hit.height)
        case ItemExplanation():
            ranks = ranks_told(explanation.rank, explanation.first_rank)
            facts = facts_told(explanation.match.match_probability, similarity=explanation.similarity, ranks=ranks)
            facts_and_place = (facts, explanation.location)
            return Explained(query, explanation.location, facts_and_place, explanation.match, explanation.width, explanation.height)


def facts_told(match_probability: float, *, similarity: float, ranks: str | None) -> str:
    """One line of figures."""
    facts = [f"match {match_probability:.0%}", f"similarity {similarity:.3f}", *([] if ranks is None else [ranks])]
    return "    ".join(facts)


def ranks_told(rank: int | None, first_rank: int | None) -> str:
    """Where it stands, and where it stood by similarity."""
    if rank is None:
        return "beyond the ranks that were looked at"
    return f"rank {rank:,}" + ("" if first_rank in (None, rank) else f" (by similarity {first_rank:,})")
