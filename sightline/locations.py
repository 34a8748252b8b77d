"""Where an item is, from the two strings that the catalogue keeps of it: its source and its key.

A key is resolved against its source as a relative link against the page that it stands on. The source of a folder ends
with a slash, so that keys are below it; manifests, text files and shards are files, so that keys are beside them:

    source                    key                  location
    /home/ann/Pictures/       2024/cat.jpg         /home/ann/Pictures/2024/cat.jpg
    /data/photos.csv          img/cat.jpg          /data/img/cat.jpg
    /data/notes.txt           notes.txt:12         /data/notes.txt:12
    /data/train-0.tar         train-0.tar/cat.jpg  /data/train-0.tar/cat.jpg
    (any)                     /mnt/disk/cat.jpg    /mnt/disk/cat.jpg
"""

import os
import tarfile
from pathlib import Path

from sightline.errors import UnreadableImage


def locate(source: str, key: str) -> str:
    """A path or URL; of an item inside a file (a row, a line, a member of a tar), the file's path and its place there."""
    if "://" in key:
        return key
    return os.path.join(os.path.dirname(source), key)  # noqa: PTH118, PTH120  pathlib drops the slash that decides, and :// too


def picture_at(path: Path) -> Path | bytes:
    """The picture's file, or its bytes where it is a member of a tar; raises `UnreadableImage` where it is neither."""
    if path.is_file():
        return path
    shard = next((parent for parent in path.parents if parent.is_file()), None)
    try:
        if shard is not None:
            with tarfile.open(shard) as members:
                file = members.extractfile(path.relative_to(shard).as_posix())
                if file is not None:
                    return file.read()
    except (tarfile.TarError, KeyError, OSError) as error:
        raise UnreadableImage(str(path), reason=f"it cannot be read from {shard}") from error
    raise UnreadableImage(str(path), reason="the file is not there any more")
