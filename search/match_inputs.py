"""What a fusion encoder reads when many queries are measured: the tokens of all texts and the patches of all pictures, by key."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from sightline.encoders.encoder import Encoder
from sightline.encoders.tokens import TextTokens, TokenEncoder, TokenRow, padded_tokens
from sightline.storage.patches import PatchBatch
from sightline.storage.snapshot import Snapshot
from sightline.types import Embeddings, ItemIds


@dataclass(frozen=True, slots=True)
class KeptTokens:
    """Text tokens of many texts, end to end without padding.

    They take tokens x width x 2 bytes a text: a caption of 13 tokens in a backbone 384 wide is 10 kB, and 25,000 of them are 250 MB.
    """

    row_by_key: Mapping[str, int]
    hidden_states: NDArray[np.float16]  # (tokens of all texts, width); a fusion encoder is trained on such halves
    token_ids: NDArray[np.int64]  # (tokens of all texts,)
    starts: NDArray[np.int64]  # (texts + 1,)

    def of(self, keys: Sequence[str]) -> TextTokens:
        """Those of the texts with these keys, in the order given."""
        rows = [self.row_by_key[key] for key in keys]
        own = [slice(self.starts[row], self.starts[row + 1]) for row in rows]
        found = [TokenRow(self.hidden_states[each].astype(np.float32), self.token_ids[each]) for each in own]
        return padded_tokens(found, width=self.hidden_states.shape[1])


class TokenKeeper:
    """Embeds texts, and keeps their tokens."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = cast(TokenEncoder, encoder)
        self._blocks: list[NDArray[np.float16]] = []
        self._id_blocks: list[NDArray[np.int64]] = []
        self._num_tokens: list[int] = []

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """As the encoder's own."""
        embeddings, tokens = self._encoder.embed_texts_with_tokens(texts)
        self._blocks.append(tokens.hidden_states[tokens.mask].astype(np.float16))  # (tokens of these texts, width)
        self._id_blocks.append(tokens.token_ids[tokens.mask])  # (tokens of these texts,)
        self._num_tokens += tokens.num_tokens.tolist()
        return embeddings

    def kept(self, keys: Sequence[str]) -> KeptTokens:
        """The tokens of all texts that were embedded, which the keys name in their order."""
        assert len(keys) == len(self._num_tokens)
        row_by_key = {key: row for row, key in enumerate(keys)}
        starts = np.concatenate([[0], np.cumsum(self._num_tokens)])
        return KeptTokens(row_by_key, np.concatenate(self._blocks), np.concatenate(self._id_blocks), starts)


@dataclass(frozen=True, slots=True)
class KnownPatches:
    """Patches of the pictures that are asked for, in memory or in a collection."""

    row_by_key: Mapping[str, int]
    is_there: NDArray[np.bool_]  # (pictures,)
    read: Callable[[NDArray[np.int64]], PatchBatch]  # of rows that are there, in the order given

    @property
    def num_missing(self) -> int:
        """Pictures without patches."""
        return int((~self.is_there).sum())

    def rows_of(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """Rows of the pictures with these keys, -1 for those without patches."""
        rows = np.array([self.row_by_key.get(key, -1) for key in keys], dtype=np.int64)
        return np.where((rows >= 0) & self.is_there[rows], rows, -1)


def patches_in_memory(keys: Sequence[str], batch: PatchBatch) -> KnownPatches:
    """A row of `batch` for each key: 13.7 kB a picture, 68 MB for five thousand."""
    assert len(keys) == len(batch)

    def read(rows: NDArray[np.int64]) -> PatchBatch:
        return batch.at(rows)

    return KnownPatches({key: row for row, key in enumerate(keys)}, np.ones(len(keys), dtype=np.bool_), read)


def patches_of_snapshot(snapshot: Snapshot, keys: Sequence[str], item_ids: ItemIds, *, fusion_fingerprint: str) -> KnownPatches:
    """An item id for each key; read from the collection's files when they are asked for.

    Raises `CorruptSegment` where patches of any of the items are damaged: what is measured is the whole collection.
    """
    damage = snapshot.patch_damage(item_ids, fusion_fingerprint=fusion_fingerprint)
    if damage is not None:
        raise damage.first
    is_there = snapshot.has_patches(item_ids, fusion_fingerprint=fusion_fingerprint)

    def read(rows: NDArray[np.int64]) -> PatchBatch:
        return snapshot.patches(item_ids[rows], fusion_fingerprint=fusion_fingerprint)

    return KnownPatches({key: row for row, key in enumerate(keys)}, is_there, read)
