"""Texts as a Hugging Face model reads them: its own tokeniser, and the padding that it was trained with."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sightline.encoders.text_input import MAX_CHARACTERS_PER_TOKEN, surely_fits
from sightline.encoders.tokens import Span
from sightline.errors import InvalidCheckpoint

TOKENS_PER_BATCH = 16_384
"""Tokens of one forward pass, padding included: 256 texts of 64 tokens, about 200 MB of activations in a ViT-L's text encoder."""

LEGACY_EOS_TOKEN_ID = 2
"""What old CLIP configurations say; transformers then pools at the highest token id instead (its pull request 24773)."""


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Some of the texts that were given, as the arguments of `get_text_features`."""

    positions: list[int]  # where each row's text stood in what was given
    inputs: dict[str, Tensor]  # int64 (batch, tokens) each, on the CPU
    num_tokens: list[int]  # of each row, without padding on the right


class TextInput(Protocol):
    """What one family of text encoders reads."""

    def batches(self, texts: Sequence[str]) -> Iterator[TextBatch]:
        """Every text in one of the batches, each of bounded size. Thread-safe."""

    def is_truncated(self, text: str) -> bool:
        """Whether the network reads only the beginning of the text."""

    def token_spans(self, text: str) -> list[Span | None]:
        """Of each token that the network gives of the text: the characters that it stands for; None for special tokens and padding."""


class Tokenizer:
    """A transformers tokeniser that several threads may use, cut to `max_tokens`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_tokens: int, is_lowercased: bool = False) -> None:
        self.max_tokens = max_tokens
        self._tokenizer = tokenizer
        self._is_lowercased = is_lowercased
        self._lock = threading.Lock()  # truncation and padding are state of the tokeniser: two threads at once raise "Already borrowed"

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included, truncated and not padded."""
        with self._lock:
            encoded = self._tokenizer(self._cleaned(texts), truncation=True, max_length=self.max_tokens, return_attention_mask=False)
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def padded(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Ids, and a mask where the checkpoint's tokeniser makes one, int64 (len(texts), max_tokens)."""
        with self._lock:
            encoded = self._tokenizer(
                self._cleaned(texts), padding="max_length", truncation=True, max_length=self.max_tokens, return_tensors="pt"
            )
        return {name: encoded[name] for name in ("input_ids", "attention_mask") if name in encoded}

    def spans(self, text: str) -> list[Span | None]:
        """Of each of the text's `ids`: the characters that it stands for; None for special tokens.

        Tokenisers that are not compiled don't keep them; theirs are found again by their letters, in order.
        """
        (cleaned,) = self._cleaned([text])
        with self._lock:
            if self._tokenizer.is_fast:
                encoded = self._tokenizer(cleaned, truncation=True, max_length=self.max_tokens, return_offsets_mapping=True)
                return [None if start == end else (start, end) for start, end in encoded["offset_mapping"]]
            ids = self._tokenizer(cleaned, truncation=True, max_length=self.max_tokens)["input_ids"]
            special = set(self._tokenizer.all_special_ids)
            letters = ["" if token in special else str(self._tokenizer.decode([token])).strip() for token in ids]
        return found_again(letters, cleaned)

    def is_truncated(self, text: str) -> bool:
        """Whether the text has more tokens than `max_tokens`."""
        if len(text) > self.max_tokens * MAX_CHARACTERS_PER_TOKEN:
            return True
        if surely_fits(text, max_tokens=self.max_tokens):
            return False
        with self._lock:
            ids = self._tokenizer(self._cleaned([text]), truncation=True, max_length=self.max_tokens + 1)["input_ids"]
        return len(ids[0]) > self.max_tokens

    def _cleaned(self, texts: Sequence[str]) -> list[str]:
        """Cut to what can count, without lone surrogates (from broken file names), in lower case where the network knows no other."""
        cut = (text[: self.max_tokens * MAX_CHARACTERS_PER_TOKEN] for text in texts)
        valid = (text.encode("utf-8", "replace").decode("utf-8") for text in cut)
        return [text.lower() if self._is_lowercased else text for text in valid]


class CausalTexts:
    """CLIP: no token sees a later one and the text is pooled at its end, so what pads it on the right cannot matter.

    Texts of like length share a batch, padded to its longest only; captions take about a sixth of the 77 tokens.
    """

    def __init__(self, tokenizer: Tokenizer, *, eos_token_id: int) -> None:
        self._tokenizer = tokenizer
        if eos_token_id not in (LEGACY_EOS_TOKEN_ID, *tokenizer.ids(["a"])[0]):
            raise InvalidCheckpoint(
                f"the network pools a text at token {eos_token_id}, which the tokeniser never writes: every text would embed alike; "
                "correct text_config.eos_token_id in config.json, or the tokeniser's files"
            )

    def batches(self, texts: Sequence[str]) -> Iterator[TextBatch]:
        """Shortest texts first."""
        ids_by_text = self._tokenizer.ids(texts) if texts else []
        remaining = sorted(range(len(texts)), key=lambda position: -len(ids_by_text[position]))
        while remaining:
            positions = self._shortest(remaining, ids_by_text)
            del remaining[-len(positions) :]
            rows = [ids_by_text[position] for position in positions]
            yield TextBatch(positions=positions, inputs={"input_ids": right_padded(rows)}, num_tokens=[len(row) for row in rows])

    def is_truncated(self, text: str) -> bool:
        """Whether the text has more tokens than the network reads."""
        return self._tokenizer.is_truncated(text)

    def token_spans(self, text: str) -> list[Span | None]:
        """Of each of the text's tokens."""
        return self._tokenizer.spans(text)

    @staticmethod
    def _shortest(remaining: list[int], ids_by_text: list[list[int]]) -> list[int]:
        """As many positions from the end of `remaining`, longest first in it, as one forward pass takes."""
        positions: list[int] = []
        for position in reversed(remaining):
            if positions and (len(positions) + 1) * len(ids_by_text[position]) > TOKENS_PER_BATCH:
                break
            positions.append(position)
        return positions


class PaddedTexts:
    """SigLIP and SigLIP 2: trained with every text padded to the full length, which all tokens see, and pooled at the last position."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def batches(self, texts: Sequence[str]) -> Iterator[TextBatch]:
        """In the order given."""
        num_texts = max(1, TOKENS_PER_BATCH // self._tokenizer.max_tokens)
        for start in range(0, len(texts), num_texts):
            positions = list(range(start, min(start + num_texts, len(texts))))
            inputs = self._tokenizer.padded([texts[position] for position in positions])
            yield TextBatch(positions=positions, inputs=inputs, num_tokens=[self._tokenizer.max_tokens] * len(positions))

    def is_truncated(self, text: str) -> bool:
        """Whether the text has more tokens than the network reads."""
        return self._tokenizer.is_truncated(text)

    def token_spans(self, text: str) -> list[Span | None]:
        """Of each of the text's tokens, and None for each that pads it to the full length."""
        spans = self._tokenizer.spans(text)
        return [*spans, *([None] * (self._tokenizer.max_tokens - len(spans)))]


def found_again(letters: Sequence[str], text: str) -> list[Span | None]:
    """Where pieces of a text stand in it, one after the other; None for those that are empty or not there."""
    spans: list[Span | None] = []
    lowered, end = text.lower(), 0
    for piece in letters:
        start = lowered.find(piece.lower(), end) if piece else -1
        if start >= 0:
            end = start + len(piece)
        spans.append((start, end) if start >= 0 else None)
    return spans


def right_padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Token ids as int64 (rows, longest row), zeros on the right.

    Zero is safe whatever token it is: CLIP pools at the first end-of-text token or at the first of the highest ids, and both come
    before the padding.
    """
    padded = torch.zeros((len(rows), max(map(len, rows), default=0)), dtype=torch.int64)
    for padded_row, row in zip(padded, rows, strict=True):
        padded_row[: len(row)] = torch.tensor(row, dtype=torch.int64)
    return padded
