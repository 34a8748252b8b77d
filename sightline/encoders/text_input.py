"""Texts as token ids: the tokeniser of a checkpoint, padded only to the longest text of a batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from sightline.errors import InvalidCheckpoint

MAX_CHARACTERS_PER_TOKEN = 64
"""Text beyond so many characters a token is cut before tokenising, so that a text of a megabyte costs no more than a page."""

_MAX_SPECIAL_TOKENS = 8
"""That a tokeniser adds to a text: two or three in those that there are."""


def surely_fits(text: str, *, max_tokens: int) -> bool:
    """True only for a text that has no more than `max_tokens` tokens, special ones included; found out without a tokeniser.

    A tokeniser makes no more tokens of ASCII than there are characters. Others may be taken apart into several first.
    """
    return len(text) <= max_tokens - _MAX_SPECIAL_TOKENS and text.isascii()


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Token ids and their mask, both int64 (batch, longest text's tokens)."""

    token_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]


class TextInput:
    """Turns texts into token batches of at most `max_tokens`."""

    def __init__(self, tokenizer: Tokenizer, *, max_tokens: int) -> None:
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length=max_tokens)
        self.max_tokens = max_tokens
        self._tokenizer = tokenizer
        self._pad_id = tokenizer.token_to_id("[PAD]") or tokenizer.token_to_id("<pad>") or 0

    @classmethod
    def from_file(cls, path: Path, *, max_tokens: int) -> Self:
        """Reads a `tokenizer.json`; raises `InvalidCheckpoint` where there is none that can be read."""
        try:
            return cls(Tokenizer.from_file(str(path)), max_tokens=max_tokens)
        except Exception as error:  # tokenizers raises bare Exception
            raise InvalidCheckpoint(f"{path}: no tokeniser can be read from it: {error}") from error

    def save(self, path: Path) -> None:
        """Writes the tokeniser as `tokenizer.json`."""
        self._tokenizer.save(str(path), pretty=False)

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, special tokens included, truncated and not padded."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch([self._cut(text) for text in texts])]

    def token_spans(self, text: str) -> list[tuple[int, int] | None]:
        """Of each of the text's `token_ids`: the characters that it stands for; None for special tokens."""
        encoding = self._tokenizer.encode(self._cut(text))
        marked = zip(encoding.offsets, encoding.special_tokens_mask, strict=True)
        return [None if is_special else (start, end) for (start, end), is_special in marked]

    def pad(self, ids_by_text: Sequence[Sequence[int]]) -> TokenBatch:
        """Pads to the longest of the batch."""
        longest = max((len(ids) for ids in ids_by_text), default=0)
        token_ids = np.full((len(ids_by_text), longest), self._pad_id, dtype=np.int64)
        attention_mask = np.zeros_like(token_ids)
        for row, ids in enumerate(ids_by_text):
            token_ids[row, : len(ids)] = ids
            attention_mask[row, : len(ids)] = 1
        return TokenBatch(token_ids=token_ids, attention_mask=attention_mask)

    def batches_by_length(
        self, ids_by_text: Sequence[Sequence[int]], *, texts_per_batch: int
    ) -> Iterator[tuple[NDArray[np.int64], TokenBatch]]:
        """(positions in `ids_by_text`, padded batch), the short texts first, so that little is padded."""
        by_length = np.argsort([len(ids) for ids in ids_by_text], kind="stable")
        for start in range(0, len(by_length), texts_per_batch):
            positions = by_length[start : start + texts_per_batch]
            yield positions, self.pad([ids_by_text[position] for position in positions])

    def is_truncated(self, text: str) -> bool:
        """Whether the network reads only the beginning of the text."""
        if len(text) > self.max_tokens * MAX_CHARACTERS_PER_TOKEN:
            return True
        if surely_fits(text, max_tokens=self.max_tokens):
            return False
        return bool(self._tokenizer.encode(self._cut(text)).overflowing)

    def _cut(self, text: str) -> str:
        """The part that is tokenised; halves of surrogate pairs (from file names and JSON) become question marks."""
        return text[: self.max_tokens * MAX_CHARACTERS_PER_TOKEN].encode(errors="replace").decode()
