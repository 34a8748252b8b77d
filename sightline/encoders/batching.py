"""Joins what several threads ask of a network at the same time: one pass for all of them where that is cheaper, turns where it is not.

A text takes 4.4 ms of processor time alone and 1.9 in a batch of sixteen (sightline-mini, one core), so texts are joined. Who finds the
network idle becomes the leader of a batch of its own at once. Who finds it busy, with as many leaders as there may be, is collected; when a
pass is over, the first of those that wait leads the next one. A leader lingers a few milliseconds only where fewer wait than the last pass
served, and only in the wake of that pass: whoever was just answered is then likely to ask again, and would otherwise go in two halves that
wait for each other forever, or alone while all others wait.

Searches with a second look are joined as a whole (`search.engine`), so that the fusion encoder reads several texts' candidates in one
pass. What it is asked besides takes turns: each call has the caches to itself, and is over sooner than if all ran at once.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sightline.encoders.matcher import FusionMatcher
from sightline.encoders.query_bank import QueryBank
from sightline.encoders.tokens import ImageTokens, SeenBox, Span, TextTokens, TokenEncoder, TokenRow, padded_tokens
from sightline.errors import EncoderUnavailable
from sightline.types import Embeddings, Modality

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")

RefuseIfLate = Callable[[], None]
"""Raises what a call is to get that nobody waits for any more."""


def never_late() -> None:
    """Somebody waits."""


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """How calls are joined."""

    max_batch: int = 32  # what is asked for in one pass; a single call with more goes alone
    wait_ms: float = 3.0  # that a busy network lingers for company
    num_leaders: int = 1  # passes at the same time


@dataclass(slots=True, eq=False)
class _Call(Generic[Asked, Answered]):
    asked: Sequence[Asked]
    refuse_if_late: RefuseIfLate
    woken: threading.Event = field(default_factory=threading.Event)  # answered, or to lead
    answers: list[Answered] | None = None
    error: BaseException | None = None

    @property
    def is_over(self) -> bool:
        return self.answers is not None or self.error is not None


class Batcher(Generic[Asked, Answered]):
    """One function over sequences, whose concurrent calls are joined. Thread-safe; each call gets its own answers, in order.

    An error goes to the call that caused it: a batch that fails is asked again call by call. A call that has become late is not begun.
    """

    def __init__(
        self,
        answer: Callable[[list[Asked]], Sequence[Answered]],
        *,
        options: BatchOptions,
        lateness: Callable[[], RefuseIfLate] = lambda: never_late,
    ) -> None:
        self._answer = answer
        self._options = options
        self._lateness = lateness  # asked in the caller's thread, and what it gives is asked in the leader's
        self._changed = threading.Condition()
        self._waiting: deque[_Call[Asked, Answered]] = deque()
        self._num_leading = 0
        self._num_served = 0  # by the last pass, in calls
        self._ended_at = -math.inf  # the last pass, by `time.monotonic`

    def __call__(self, asked: Sequence[Asked]) -> list[Answered]:
        """The answers to what is asked, in its order. Raises what the function raises, or what the lateness of this call is."""
        if not asked:
            return []
        call: _Call[Asked, Answered] = _Call(asked, self._lateness())
        with self._changed:
            leads_at_once = self._num_leading < self._options.num_leaders
            lingers = time.monotonic() - self._ended_at < self._options.wait_ms / 1000  # else nobody is about to come back
            if leads_at_once:
                self._num_leading += 1
            else:
                self._waiting.append(call)
                self._changed.notify_all()
        if leads_at_once:
            self._lead(call, lingers=lingers)
        else:
            call.woken.wait()
            if not call.is_over:
                self._lead(call, lingers=True)
        if call.error is not None:
            raise call.error
        assert call.answers is not None
        return call.answers

    def _lead(self, own: _Call[Asked, Answered], *, lingers: bool) -> None:
        """Answer a batch that begins with the leader's own call, then hand the lead to the first that waits."""
        batch = [own]
        try:
            batch = self._collect(own, lingers=lingers)
            self._answer_all(batch)
        finally:
            with self._changed:
                self._num_served = len(batch)
                self._ended_at = time.monotonic()
                successor = self._waiting.popleft() if self._waiting else None
                if successor is None:
                    self._num_leading -= 1
            for call in batch:
                if not call.is_over:  # the leader's thread is being ended
                    call.error = EncoderUnavailable("the network was broken off; try again")
                if call is not own:
                    call.woken.set()
            if successor is not None:
                successor.woken.set()

    def _collect(self, own: _Call[Asked, Answered], *, lingers: bool) -> list[_Call[Asked, Answered]]:
        """The calls of the next pass, in the order in which they came; the leader's own, which waits no more, is the first."""
        until = time.monotonic() + self._options.wait_ms / 1000
        num_asked = len(own.asked)
        with self._changed:
            while lingers and len(self._waiting) + 1 < self._num_served and num_asked + self._num_asked() < self._options.max_batch:
                remaining_s = until - time.monotonic()
                if remaining_s <= 0:
                    break
                self._changed.wait(remaining_s)
            batch = [own]
            while self._waiting and num_asked + len(self._waiting[0].asked) <= self._options.max_batch:
                batch.append(self._waiting.popleft())
                num_asked += len(batch[-1].asked)
            return batch

    def _num_asked(self) -> int:
        return sum(len(call.asked) for call in self._waiting)

    def _answer_all(self, batch: Sequence[_Call[Asked, Answered]]) -> None:
        """Give each call its answers or its error."""
        wanted = []
        for call in batch:
            try:
                call.refuse_if_late()
                wanted.append(call)
            except Exception as error:  # noqa: BLE001  it is raised again in the call's own thread
                call.error = error
        try:
            self._answer_together(wanted)
        except Exception as error:  # noqa: BLE001  it is raised again in the thread of the call that caused it
            if len(wanted) == 1:
                wanted[0].error = error
                return
            for call in wanted:
                self._answer_all([call])

    def _answer_together(self, calls: Sequence[_Call[Asked, Answered]]) -> None:
        asked = [each for call in calls for each in call.asked]
        answers = list(self._answer(asked)) if asked else []
        assert len(answers) == len(asked)
        start = 0
        for call in calls:
            call.answers = answers[start : start + len(call.asked)]
            start += len(call.asked)


@dataclass(frozen=True, slots=True)
class _Text:
    words: str
    wants_tokens: bool


@dataclass(frozen=True, slots=True, eq=False)
class _EmbeddedText:
    embedding: NDArray[np.float32]  # (embedding_dim,)
    tokens: TokenRow | None


class BatchedEncoder:
    """An encoder whose concurrent calls for texts, and those for pictures, are joined. Thread-safe; embeddings are equal to rounding."""

    def __init__(self, encoder: TokenEncoder, *, options: BatchOptions, lateness: Callable[[], RefuseIfLate] = lambda: never_late) -> None:
        self.name = encoder.name
        self.fingerprint = encoder.fingerprint
        self.embedding_dim = encoder.embedding_dim
        self.image_side = encoder.image_side
        self._encoder = encoder
        self._texts: Batcher[_Text, _EmbeddedText] = Batcher(self._embed_texts, options=options, lateness=lateness)
        self._pixels: Batcher[NDArray[Any], NDArray[np.float32]] = Batcher(self._embed_pixels, options=options, lateness=lateness)

    @property
    def image_token_dim(self) -> int:
        """Width of the image tokens."""
        return self._encoder.image_token_dim

    @property
    def text_token_dim(self) -> int:
        """Width of the text tokens."""
        return self._encoder.text_token_dim

    @property
    def query_banks(self) -> Mapping[Modality, QueryBank]:
        """Those of the encoder."""
        return self._encoder.query_banks

    def load(self, modality: Modality) -> None:
        """Builds what embeds that modality."""
        self._encoder.load(modality)

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """As the encoder does."""
        return self._encoder.prepare(image)

    def embed_pixels(self, pixels: NDArray[Any]) -> Embeddings:
        """(batch, *prepared shape) -> (batch, embedding_dim)."""
        return self._stacked(self._pixels(list(pixels)))

    def embed_pixels_with_tokens(self, pixels: NDArray[Any]) -> tuple[Embeddings, ImageTokens]:
        """As the encoder does, without company: one query in a thousand asks for it."""
        return self._encoder.embed_pixels_with_tokens(pixels)

    def squares(self, pixels: NDArray[Any]) -> NDArray[np.uint8] | None:
        """As the encoder shows them."""
        return self._encoder.squares(pixels)

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """(len(texts), embedding_dim), in the order given."""
        return self._stacked([each.embedding for each in self._texts([_Text(words, wants_tokens=False) for words in texts])])

    def embed_texts_with_tokens(self, texts: Sequence[str]) -> tuple[Embeddings, TextTokens]:
        """What `embed_texts` gives, and the tokens, from one pass of the network."""
        found = self._texts([_Text(words, wants_tokens=True) for words in texts])
        tokens = [each.tokens for each in found if each.tokens is not None]
        return self._stacked([each.embedding for each in found]), padded_tokens(tokens, width=self.text_token_dim)

    def token_spans(self, text: str) -> list[Span | None]:
        """As the encoder has them."""
        return self._encoder.token_spans(text)

    def seen_box(self, width: int, height: int) -> SeenBox:
        """As the encoder sees it."""
        return self._encoder.seen_box(width, height)

    def is_truncated(self, text: str) -> bool:
        """Whether the network reads only the beginning of the text."""
        return self._encoder.is_truncated(text)

    def _stacked(self, rows: Sequence[NDArray[np.float32]]) -> Embeddings:
        return np.stack(rows) if rows else np.empty((0, self.embedding_dim), dtype=np.float32)

    def _embed_pixels(self, pixels: list[NDArray[Any]]) -> list[NDArray[np.float32]]:
        return list(self._encoder.embed_pixels(np.stack(pixels)))

    def _embed_texts(self, texts: list[_Text]) -> list[_EmbeddedText]:
        """One pass for all; with tokens where one of them wants some, which cost a copy."""
        words = [text.words for text in texts]
        if not any(text.wants_tokens for text in texts):
            return [_EmbeddedText(embedding, None) for embedding in self._encoder.embed_texts(words)]
        embeddings, tokens = self._encoder.embed_texts_with_tokens(words)
        return [_EmbeddedText(*both) for both in zip(embeddings, tokens.rows(), strict=True)]


class TakingTurns(FusionMatcher):
    """A fusion encoder whose concurrent calls, but for so many, wait for each other, the first come first.

    It is the one that it is made of otherwise.
    """

    def __init__(self, matcher: FusionMatcher, *, num_at_once: int = 1, lateness: Callable[[], RefuseIfLate] = lambda: never_late) -> None:
        vars(self).update(vars(matcher))  # it shares the network and all that was fitted
        self._turns = Turns(num_at_once)
        self._lateness = lateness

    def match_logits(
        self,
        texts: TextTokens,
        patches: NDArray[np.float32],
        *,
        image_priors: NDArray[np.float32] | None = None,
        text_priors: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """See `FusionMatcher`. Raises what the lateness of this call is, once it is its turn."""
        refuse_if_late = self._lateness()
        with self._turns:
            refuse_if_late()
            return super().match_logits(texts, patches, image_priors=image_priors, text_priors=text_priors)

    def match_logits_each(
        self,
        texts: TextTokens,
        patches: NDArray[np.float32],
        *,
        image_priors: NDArray[np.float32],
        text_priors: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """See `FusionMatcher`, and above."""
        refuse_if_late = self._lateness()
        with self._turns:
            refuse_if_late()
            return super().match_logits_each(texts, patches, image_priors=image_priors, text_priors=text_priors)


class Turns:
    """A semaphore that is given in the order in which it was asked for."""

    def __init__(self, num_at_once: int = 1) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._num_free = num_at_once

    def __enter__(self) -> None:
        with self._guard:
            if self._num_free:
                self._num_free -= 1
                return
            turn = threading.Event()
            self._waiting.append(turn)
        turn.wait()

    def __exit__(self, *_: object) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._num_free += 1
