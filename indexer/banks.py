"""The banks of queries that a collection keeps, between the encoder that reads them and the storage that holds them."""

from collections.abc import Mapping, Sequence

import numpy as np

from sightline.encoders.encoder import Encoder
from sightline.encoders.query_bank import QueryBank, bank_from_bytes
from sightline.errors import InvalidInput, StorageError
from sightline.storage.records import BankRecord, NewItem, RowBiases, StoredBank
from sightline.storage.store import Store
from sightline.types import CollectionId, Embeddings, Modality

Banks = Mapping[Modality, QueryBank]
"""By the modality of the items that a bank is for."""


def encoder_banks(encoder: Encoder) -> list[StoredBank]:
    """What a new collection keeps of its encoder's banks. Raises `InvalidCheckpoint` for one that is damaged."""
    return [stored_bank(modality, bank, origin=f"of {encoder.name}") for modality, bank in sorted(encoder.query_banks.items())]


def stored_bank(modality: Modality, bank: QueryBank, *, origin: str) -> StoredBank:
    """As the catalogue takes it; `origin` says in words where its queries are from."""
    return StoredBank(BankRecord(modality, bank.fingerprint, bank.strength, len(bank.weights), origin), bank.to_bytes())


def collection_banks(store: Store, collection_id: CollectionId) -> Banks:
    """The collection's own banks, whatever its encoder brings today. Raises `StorageError` for one that is damaged."""
    banks = {}
    for stored in store.banks(collection_id):
        try:
            bank = bank_from_bytes(stored.content)
        except InvalidInput as error:
            raise StorageError(
                f"{error}; `sightline hubness` gives the collection another one for its {stored.record.modality}s"
            ) from error
        banks[stored.record.modality] = bank.with_strength(stored.record.strength)
    return banks


def row_biases(banks: Banks, items: Sequence[NewItem], embeddings: Embeddings) -> RowBiases | None:
    """Biases of new items; None where the collection has no bank.

    Embeddings are rounded first as they will be stored, so that recomputing biases from the store changes none.
    """
    if not banks:
        return None
    stored = embeddings.astype(np.float16)
    values = np.zeros(len(items), dtype=np.float32)
    for modality, bank in banks.items():
        rows = np.array([row for row, item in enumerate(items) if item.modality is modality], dtype=np.int64)
        values[rows] = bank.biases(stored[rows])
    return RowBiases(values, {modality: bank.fingerprint for modality, bank in banks.items()})
