"""What should be found: queries with their relevant keys, from captions, from classes, or from what a person judged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from search.evaluation import Judgements
from sightline.errors import InvalidInput


class JudgedBy(StrEnum):
    """Where judgements come from."""

    CAPTIONS = "captions"  # the picture that a caption belongs to, and no other
    CLASSES = "classes"  # every picture of a class, for its name
    PERSON = "judgements"  # a file that somebody wrote


@dataclass(frozen=True, slots=True)
class DescribedPicture:
    """A picture that may be found, with what is known of it."""

    key: str
    captions: tuple[str, ...] = ()
    class_name: str | None = None

    def caption_ids(self) -> list[str]:
        """`KEY#1`, `KEY#2`, ...: what runs call its captions."""
        return [f"{self.key}#{number}" for number in range(1, len(self.captions) + 1)]


@dataclass(frozen=True, slots=True)
class JudgedTexts:
    """Texts to ask with and the pictures that each should find."""

    judged_by: JudgedBy
    text_by_query: Mapping[str, str]  # query id -> what is asked
    judgements: Judgements  # of the same queries in the same order

    def __post_init__(self) -> None:
        assert list(self.text_by_query) == list(self.judgements)


def judged_texts(pictures: Sequence[DescribedPicture], *, name: str) -> JudgedTexts:
    """Class names where every picture has a class, captions elsewhere.

    Raises `InvalidInput`, calling the pictures `name`, where there is nothing to ask with or nothing to tell apart.
    """
    if len(pictures) < 2:
        held = "one picture" if pictures else "no picture"
        raise InvalidInput(f"{name} holds {held} that can be searched; with fewer than two every ranking is right")
    has_classes = all(picture.class_name is not None for picture in pictures)
    judged = _by_class(pictures) if has_classes else _by_caption(pictures)
    if not judged.text_by_query:
        raise InvalidInput(
            f"none of the {len(pictures):,} pictures of {name} has a caption, so nothing says what should be found; "
            "add captions, or name a file of judgements (--judgements, or --qrels with --queries)"
        )
    if len(set(judged.text_by_query.values())) == 1:
        (text, *_) = judged.text_by_query.values()
        raise InvalidInput(f"every caption of {name} is the same ({text[:40]!r}); nothing tells the pictures apart")
    return judged


def judged_pictures(pictures: Sequence[DescribedPicture]) -> Judgements:
    """Picture key -> its own caption ids, for the pictures that have captions: what image-to-text should find."""
    return {picture.key: dict.fromkeys(picture.caption_ids(), 1) for picture in pictures if picture.captions}


def with_known_keys(judged: JudgedTexts, keys: Sequence[str], *, name: str) -> tuple[JudgedTexts, tuple[str, ...]]:
    """A person's judgements and notes on what in them fits the pictures of `name` badly.

    A relevant key that is not among `keys` stays and counts as not found, as a picture does that could not be read.
    Raises `InvalidInput` where no query has a relevant key that is known.
    """
    known = set(keys)
    relevant = {key for grades in judged.judgements.values() for key, grade in grades.items() if grade > 0}
    missing = sorted(relevant - known)
    if len(missing) == len(relevant):
        seen = f"; its keys look like {min(keys)!r}" if keys else ", which holds no picture"
        raise InvalidInput(f"none of the {len(relevant):,} relevant keys of the judgements, such as {missing[0]!r}, is in {name}{seen}")
    if not missing:
        return judged, ()
    note = f"{len(missing):,} of {len(relevant):,} relevant keys are not in {name} and count as not found, such as {missing[0]!r}"
    return judged, (note,)


def _by_caption(pictures: Sequence[DescribedPicture]) -> JudgedTexts:
    asked = [
        (query, text, picture.key) for picture in pictures for query, text in zip(picture.caption_ids(), picture.captions, strict=True)
    ]
    return JudgedTexts(JudgedBy.CAPTIONS, {query: text for query, text, _ in asked}, {query: {key: 1} for query, _, key in asked})


def _by_class(pictures: Sequence[DescribedPicture]) -> JudgedTexts:
    """One query a class: the caption that all its pictures share, as a person types it ("grand piano"), else the label itself."""
    members: dict[str, list[DescribedPicture]] = {}
    for picture in pictures:
        members.setdefault(str(picture.class_name), []).append(picture)
    texts: dict[str, str] = {}
    for class_name, of_class in members.items():
        captions = {picture.captions for picture in of_class}
        shared = captions.pop() if len(captions) == 1 else ()
        texts[class_name] = shared[0] if shared else class_name.replace("_", " ")
    grades = {class_name: {picture.key: 1 for picture in of_class} for class_name, of_class in members.items()}
    return JudgedTexts(JudgedBy.CLASSES, texts, grades)
