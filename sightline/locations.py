"""Where an item is, from the two strings that the catalogue keeps of it: its source and its key.

A key is resolved against its source as a relative link against the page that it stands on. The source of a folder ends
with a slash, so that keys are below it; manifests, text files and shards are files, so that keys are beside them:

    source                    key                  location
    /home/ann/Pictures/       2024/cat.jpg         /home/ann/Pictures/2024/cat.jpg
    /data/photos.csv          img/cat.jpg          /data/img/cat.jpg
    /data/notes.txt           notes.txt:12         /data/notes.txt:12
    /data/train-0.tar         train-0.tar/cat.jpg  /data/train-0.tar/cat.jpg
    (any)                     /mnt/disk/cat.jpg    /mnt/disk/cat.jpg
    /s/uploads/7/3f/3fa9...   (any)                /s/uploads/7/3f/3fa9...

The last is a picture that was sent to the store: its file is named by its content, and its key is no path but whatever its sender calls
it, so that no name that a stranger gives is ever looked for on a disk.
"""

import os
import re
import tarfile
from pathlib import Path

from sightline.errors import UnreadableImage

_UPLOAD = re.compile(r"/uploads/[0-9]+/([0-9a-f]{2})/\1[0-9a-f]{62}\Z")


def locate(source: str, key: str) -> str:
    """A path or URL; of an item inside a file (a row, a line, a member of a tar), the file's path and its place there."""
    if "/uploads/" in source and is_upload(source):
        return source
    if "://" in key:
        return key
    return os.path.join(os.path.dirname(source), key)  # noqa: PTH118, PTH120  pathlib drops the slash that decides, and :// too


def upload_path(store: Path, *, collection_id: int, sha256: str) -> Path:
    """Where the store keeps a picture with this content that was sent to the collection; also the source of such an item."""
    return uploads_folder(store, collection_id=collection_id) / sha256[:2] / sha256


def uploads_folder(store: Path, *, collection_id: int) -> Path:
    """Where all that was sent to the collection is."""
    return store / "uploads" / str(collection_id)


def is_upload(source: str) -> bool:
    """Whether an item of this source was sent to the store as a picture."""
    return _UPLOAD.search(source) is not None


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
