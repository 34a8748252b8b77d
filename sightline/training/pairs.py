"""Pictures with captions, as training and validation see them, whatever source they came from."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sightline.errors import InvalidTraining


@dataclass(frozen=True, slots=True)
class CaptionedPicture:
    """One picture with the texts that describe it."""

    key: str
    captions: tuple[str, ...]  # may be empty: such a picture teaches by its class probabilities alone
    read_bytes: Callable[[], bytes]
    class_name: str | None = None


def check_trainable(pictures: Sequence[CaptionedPicture]) -> None:
    """Raises `InvalidTraining` unless there are two captions that differ: one pair has no negative to learn from."""
    captioned = [picture for picture in pictures if picture.captions]
    if not captioned:
        raise InvalidTraining(
            f"none of the {len(pictures)} pictures of the training sources has a caption; "
            "give a manifest, sidecar files or WebDataset shards"
        )
    if len(captioned) == 1:
        raise InvalidTraining("the training sources hold one captioned picture; contrastive learning needs at least two")
    if len({caption for picture in captioned for caption in picture.captions}) == 1:
        raise InvalidTraining("every caption of the training sources is the same; nothing tells the pictures apart")


def check_measurable(name: str, pictures: Sequence[CaptionedPicture]) -> None:
    """Raises `InvalidTraining` for a validation source of which nothing can be asked: without captions, and not all with a class."""
    if not any(picture.captions for picture in pictures) and not (pictures and all(picture.class_name is not None for picture in pictures)):
        raise InvalidTraining(f"the pictures of the validation source {name!r} have neither captions nor classes to ask for")


def split_by_key(pictures: Sequence[CaptionedPicture], *, held_out_share: float) -> tuple[list[CaptionedPicture], list[CaptionedPicture]]:
    """(training, held out): the split follows a digest of the key, so it stays when pictures are added."""
    threshold = int(held_out_share * 2**32)
    training: list[CaptionedPicture] = []
    held_out: list[CaptionedPicture] = []
    for picture in pictures:
        place = int.from_bytes(hashlib.sha256(picture.key.encode()).digest()[:4])
        (held_out if place < threshold else training).append(picture)
    return training, held_out
