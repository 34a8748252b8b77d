"""The identifiers and small values that every layer shares."""

from enum import StrEnum
from typing import Any, NewType

import numpy as np
from numpy.typing import NDArray

CollectionId = NewType("CollectionId", int)
SegmentId = NewType("SegmentId", int)
ItemId = NewType("ItemId", int)
RunId = NewType("RunId", int)
KeyId = NewType("KeyId", int)

JsonObject = dict[str, Any]
"""Metadata of an item: what `json.loads` gives for an object."""

Embeddings = NDArray[np.float32]
"""(rows, embedding_dim), float32, C-contiguous, each row of unit length."""

ItemIds = NDArray[np.int64]
"""(rows,), catalogue keys in row order."""


class Modality(StrEnum):
    """What an item is; a query has one too."""

    IMAGE = "image"
    TEXT = "text"


class Scope(StrEnum):
    """What a key of the service may do; `write` stands for `search` too, and `admin` for all."""

    SEARCH = "search"
    WRITE = "write"
    ADMIN = "admin"
