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


def locate(source: str, key: str) -> str:
    """A path or URL; of an item inside a file (a row, a line, a member of a tar), the file's path and its place there."""
    if "://" in key:
        return key
    return os.path.join(os.path.dirname(source), key)  # noqa: PTH118, PTH120  pathlib drops the slash that decides, and :// too
