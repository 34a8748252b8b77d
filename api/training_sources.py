"""What `sightline train` learns from: any source of the indexer, or a folder of shards sorted by their names.

A folder that holds `NAME-train-*.tar`, `NAME-val-*.tar` and `NAME-pool-*.tar` says by the names what each shard is for: pairs to learn
from, pictures to measure with, and pictures for breadth. A data set of pairs without `val` shards gives every fifth picture to validation.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from indexer.sources import BrokenInput, ByteRange, SourceItem, open_source
from sightline.errors import InvalidSource, InvalidTraining
from sightline.training.pairs import CaptionedPicture, check_trainable, split_by_key
from sightline.training.recipe import TrainingSources
from sightline.types import Modality

HELD_OUT_SHARE = 0.2

_FEWEST_CAPTIONED = 2
"""One pair has no negative to learn from."""

_SHARD_NAME = re.compile(r"(?P<data_set>.+)-(?P<use>train|val|pool)-\d+\.tar")


def training_sources(pairs: Sequence[str], *, breadth: Sequence[str], validation: Sequence[str]) -> TrainingSources:
    """Reads the descriptions of all sources, no picture.

    Raises `InvalidSource` for one that cannot be read, `InvalidTraining` where too little is left to learn from.
    Without validation sources each data set of pairs gives a fifth of its pictures, split by a digest of their keys.
    """
    if len(pairs) == 1 and not breadth and not validation and (shards := _shards_by_use(Path(pairs[0]).expanduser())):
        return _sorted_by_use(shards)
    named_pairs = {_name(spec): captioned_pictures(spec) for spec in pairs}
    named_breadth = {_name(spec): captioned_pictures(spec) for spec in breadth}
    if validation:
        return TrainingSources(named_pairs, named_breadth, {_name(spec): captioned_pictures(spec) for spec in validation})
    check_trainable([picture for pictures in named_pairs.values() for picture in pictures])  # before some are held out
    splits = {name: split_by_key(pictures, held_out_share=HELD_OUT_SHARE) for name, pictures in named_pairs.items()}
    num_learnt_from = sum(bool(picture.captions) for kept, _ in splits.values() for picture in kept)
    if num_learnt_from < _FEWEST_CAPTIONED:
        raise InvalidTraining(
            f"a fifth of the pictures are held out to measure with, and of those with captions {num_learnt_from} would be left to learn "
            "from; give more pictures, or others to measure with by --validate"
        )
    return TrainingSources(
        {name: kept for name, (kept, _) in splits.items()},
        named_breadth,
        {f"{name}-held-out": held_out for name, (_, held_out) in splits.items() if held_out},
    )


def captioned_pictures(spec: str) -> list[CaptionedPicture]:
    """The pictures of a source in its order; inputs that are broken raise `InvalidSource` only where nothing else is left."""
    pictures: list[CaptionedPicture] = []
    broken: list[BrokenInput] = []
    for scanned in open_source(spec).scan():
        match scanned:
            case SourceItem(modality=Modality.IMAGE, content=ByteRange() as content):
                captions = tuple(scanned.text.split("\n")) if scanned.text else ()
                class_name = scanned.metadata.get("class")
                key = scanned.key.rpartition(".")[0] or scanned.key
                pictures.append(CaptionedPicture(key, captions, _Reader(content), None if class_name is None else str(class_name)))
            case BrokenInput():
                broken.append(scanned)
    if not pictures:
        causes = "".join(f"; {one.key}: {one.cause}" for one in broken[:3])
        raise InvalidSource(f"{spec}: no picture to learn from is in it{causes}")
    return pictures


class _Reader:
    """Reads a picture's bytes when they are wanted."""

    def __init__(self, content: ByteRange) -> None:
        self._content = content

    def __call__(self) -> bytes:
        with self._content.path.open("rb") as file:
            file.seek(self._content.offset)
            return file.read() if self._content.num_bytes is None else file.read(self._content.num_bytes)


def _shards_by_use(folder: Path) -> dict[str, dict[str, list[Path]]]:
    """Use -> data set -> shards, for a folder of shards named by their use; empty for anything else."""
    found: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(folder.glob("*.tar")) if folder.is_dir() else ():
        if matched := _SHARD_NAME.fullmatch(path.name):
            found[matched["use"]][matched["data_set"]].append(path)
    return found


def _sorted_by_use(shards: dict[str, dict[str, list[Path]]]) -> TrainingSources:
    read = {use: {name: _read_all(paths) for name, paths in shards.get(use, {}).items()} for use in ("train", "val", "pool")}
    pairs: dict[str, Sequence[CaptionedPicture]] = {}
    validation: dict[str, Sequence[CaptionedPicture]] = dict(read["val"])
    for name, pictures in read["train"].items():
        if name in validation:
            pairs[name] = pictures
        else:
            pairs[name], validation[f"{name}-held-out"] = split_by_key(pictures, held_out_share=HELD_OUT_SHARE)
    return TrainingSources(pairs, read["pool"], validation)


def _read_all(shards: Sequence[Path]) -> list[CaptionedPicture]:
    return [picture for shard in shards for picture in captioned_pictures(str(shard))]


def _name(spec: str) -> str:
    return re.sub(r"[^\w.-]+", "-", Path(spec).name).strip("-") or "source"
