"""What a frozen encoder makes of pictures and captions, computed once and kept on disk: tokens and embeddings.

A fusion encoder learns from the tokens of a whole batch again and again; the networks that gave them never change. Image tokens are
wide (a few thousand numbers a patch where stages are read side by side), so they are reduced to their principal components, which a
linear projection reads as well as the tokens themselves: once it is learnt, the two matrices are multiplied out.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor

from sightline.encoders.checkpoint import replacing
from sightline.encoders.fusion_encoder import FusionEncoder, Words
from sightline.encoders.image_input import decode_image
from sightline.encoders.second_backbone import SecondBackbone, feature_dim_of
from sightline.encoders.tokens import GRID_SIDE, NO_TOKEN, TokenEncoder, on_common_grid
from sightline.errors import InvalidTraining, OutOfSpace, UnreadableImage
from sightline.training.pairs import CaptionedPicture
from sightline.training.views import draw_crop

logger = logging.getLogger(__name__)

NUM_PATCHES = GRID_SIDE**2
MAX_COMPONENTS = 512
"""Of standardised tokens. For sightline-mini's 3,264 they hold 71 % of the variance; wider ones fill the disk."""

BASIS_PICTURES = 1000
PICTURES_PER_BLOCK = 32
BLOCKS_PER_COMMIT = 8
ROWS_AT_ONCE = 32
"""Through the networks: wide tokens of a hundred views are arrays of 60 MB, which glibc gives back to the system after each use. Half of
the processor time went into mapping them anew."""

TEXTS_PER_BLOCK = 512
_MIN_STD = 1e-3
_SPARE_DIRECTIONS = 64  # more than are kept: the last ones of a subspace settle last
_SUBSPACE_STEPS = 4  # hold 99.9 % of the variance that the best components hold


@dataclass(frozen=True, slots=True)
class TokenBasis:
    """Principal components of standardised image tokens."""

    mean: NDArray[np.float32]  # (token_dim,)
    std: NDArray[np.float32]  # (token_dim,)
    components: NDArray[np.float32]  # (token_dim, num_components), orthonormal columns, the strongest first

    @property
    def num_components(self) -> int:
        """Width of reduced tokens."""
        return int(self.components.shape[1])

    def reduce(self, tokens: NDArray[np.float32]) -> NDArray[np.float16]:
        """(..., token_dim) -> (..., num_components)."""
        return (((tokens - self.mean) / self.std) @ self.components).astype(np.float16)

    def unfold(self, weight: Tensor) -> Tensor:
        """A matrix (out, num_components) over reduced tokens as one over standardised tokens: (out, token_dim)."""
        return weight @ torch.from_numpy(self.components).to(weight.dtype).T


@dataclass(frozen=True, slots=True)
class CachedTokens:
    """One set of captioned pictures as the encoder sees it; picture p's views are rows p * num_views to (p + 1) * num_views."""

    image_tokens: NDArray[np.float16]  # (rows, patches, num_components)
    image_embeddings: NDArray[np.float32]  # (rows, embedding_dim)
    is_readable: NDArray[np.bool_]  # (pictures,)
    text_tokens: NDArray[np.float16]  # (tokens of all texts, text_token_dim)
    text_token_ids: NDArray[np.int64]  # (tokens of all texts,)
    text_start: NDArray[np.int64]  # (texts + 1,)
    text_embeddings: NDArray[np.float32]  # (texts, embedding_dim)
    picture_by_text: NDArray[np.int64]  # (texts,)
    caption_ids: NDArray[np.int64]  # (texts,), equal for equal captions, also of other sets
    num_views: int
    image_features: NDArray[np.float16] | None = None  # (rows, feature_dim), of the second backbone; None without one

    def texts_of(self, picture: int) -> NDArray[np.int64]:
        """Positions of a picture's captions."""
        return np.arange(*np.searchsorted(self.picture_by_text, [picture, picture + 1]))

    def ids_of(self, text: int) -> NDArray[np.int64]:
        """The token ids of a text."""
        return self.text_token_ids[self.text_start[text] : self.text_start[text + 1]]

    def stored_rows(self, model: FusionEncoder, rows: NDArray[np.int64]) -> Tensor:
        """What an index would store of these rows, before quantisation: (rows, stored rows, width), on the model's device."""
        device = next(model.parameters()).device
        tokens = torch.from_numpy(self.image_tokens[rows].astype(np.float32)).to(device)
        if self.image_features is None:
            return model.project(tokens)
        return model.project(tokens, torch.from_numpy(self.image_features[rows].astype(np.float32)).to(device))

    def words(self, texts: Sequence[int] | NDArray[np.int64], *, max_words: int) -> Words:
        """Texts padded to the longest of them."""
        starts = self.text_start[np.asarray(texts)]
        lengths = np.minimum(self.text_start[np.asarray(texts) + 1] - starts, max_words)
        places = starts[:, np.newaxis] + np.minimum(np.arange(lengths.max()), lengths[:, np.newaxis] - 1)  # (texts, words)
        mask = np.arange(lengths.max()) < lengths[:, np.newaxis]
        token_ids = np.where(mask, self.text_token_ids[places], NO_TOKEN)
        return Words(torch.from_numpy(self.text_tokens[places].astype(np.float32)), torch.from_numpy(mask), torch.from_numpy(token_ids))


class TokenCache:
    """Caches of one encoder under one folder; what was begun is continued."""

    def __init__(self, encoder: TokenEncoder, folder: Path, *, max_pixels: int, seed: int, second: SecondBackbone | None = None) -> None:
        self._encoder = encoder
        self._second = second
        self._folder = folder / encoder.fingerprint[:16]
        self._max_pixels = max_pixels
        self._seed = seed
        self._folder.mkdir(parents=True, exist_ok=True)

    def basis(self, pictures: Sequence[CaptionedPicture]) -> TokenBasis:
        """Of a sample of the pictures, each in a random view; kept, so that a continued run has the same."""
        path = self._folder / "basis.safetensors"
        if path.exists():
            return TokenBasis(**load_file(path))
        chosen = np.random.default_rng(self._seed).permutation(len(pictures))[:BASIS_PICTURES]
        sample = [pictures[int(number)] for number in np.sort(chosen)]
        parts: list[NDArray[np.float32]] = []
        for _, block in self._pixels(sample, first=0, num_views=3):
            views = [views[2] for views in block if views is not None]
            if views:
                tokens = on_common_grid(self._encoder.embed_pixels_with_tokens(np.stack(views))[1])
                parts.append(tokens.reshape(-1, self._encoder.image_token_dim))
        if not parts:
            raise InvalidTraining(f"none of {len(sample)} pictures can be decoded")
        basis = principal_components(np.concatenate(parts), num_components=MAX_COMPONENTS)
        with replacing(path) as temporary:
            save_file({"mean": basis.mean, "std": basis.std, "components": basis.components}, temporary)
        return basis

    def read(
        self,
        name: str,
        pictures: Sequence[CaptionedPicture],
        basis: TokenBasis,
        *,
        num_views: int,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> CachedTokens:
        """Computes, continues or opens the cache of these pictures. Cost: a pass through the encoder for each view and caption.

        Raises `InvalidTraining` when no picture can be read and `OutOfSpace` when the disk cannot hold the tokens.
        """
        place = self._folder / f"{name}-{self._digest(pictures, num_views=num_views)[:16]}"
        place.mkdir(exist_ok=True)
        rows = len(pictures) * num_views
        arrays = _opened(
            place,
            {
                "tokens": ((rows, NUM_PATCHES, basis.num_components), np.float16),
                "embeddings": ((rows, self._encoder.embedding_dim), np.float32),
                "readable": ((len(pictures),), np.bool_),
            },
        )

        def fill(readable: NDArray[np.int64], pixels: NDArray[Any]) -> None:
            embeddings, tokens = self._encoder.embed_pixels_with_tokens(pixels)
            arrays["embeddings"][readable], arrays["tokens"][readable] = embeddings, basis.reduce(on_common_grid(tokens))

        self._fill(place, pictures, arrays, fill, num_views=num_views, on_progress=on_progress)
        if not arrays["readable"].any():
            raise InvalidTraining(f"none of the {len(pictures)} pictures can be decoded")
        captions = [caption for picture in pictures for caption in picture.captions]
        texts = self._texts(place, captions)
        picture_by_text = np.repeat(np.arange(len(pictures)), [len(picture.captions) for picture in pictures])
        return CachedTokens(
            image_tokens=arrays["tokens"],
            image_embeddings=arrays["embeddings"],
            is_readable=arrays["readable"],
            text_tokens=texts["tokens"],
            text_token_ids=texts["token_ids"],
            text_start=texts["start"],
            text_embeddings=texts["embeddings"],
            picture_by_text=picture_by_text,
            caption_ids=np.array([_caption_id(caption) for caption in captions], dtype=np.int64),
            num_views=num_views,
            image_features=self._features(place, pictures, num_views=num_views, on_progress=on_progress),
        )

    def _features(
        self, place: Path, pictures: Sequence[CaptionedPicture], *, num_views: int, on_progress: Callable[[int], None]
    ) -> NDArray[np.float16] | None:
        """Of the second backbone, which has a folder of its own: another one reads the pictures again, and the encoder does not."""
        second = self._second
        if second is None:
            return None
        place = place / f"second-{second.digest()[:16]}"
        place.mkdir(exist_ok=True)
        shape = (len(pictures) * num_views, feature_dim_of(second))
        arrays = _opened(place, {"features": (shape, np.float16), "readable": ((len(pictures),), np.bool_)})

        def fill(readable: NDArray[np.int64], pixels: NDArray[Any]) -> None:
            squares = self._encoder.squares(pixels)
            if squares is None:
                raise InvalidTraining(
                    f"{self._encoder.name} reads pictures in their own shapes, which a second backbone does not; train without one"
                )
            arrays["features"][readable] = second.features(squares)

        self._fill(place, pictures, arrays, fill, num_views=num_views, on_progress=on_progress)
        return arrays["features"]

    def _digest(self, pictures: Sequence[CaptionedPicture], *, num_views: int) -> str:
        digest = hashlib.sha256(f"{num_views} {self._max_pixels} {self._seed}".encode())
        for picture in pictures:
            digest.update("\0".join((picture.key, *picture.captions, "\n")).encode())
        return digest.hexdigest()

    def _fill(
        self,
        place: Path,
        pictures: Sequence[CaptionedPicture],
        arrays: dict[str, np.memmap],
        fill: Callable[[NDArray[np.int64], NDArray[Any]], None],
        *,
        num_views: int,
        on_progress: Callable[[int], None],
    ) -> None:
        """Has `fill` put what it makes of prepared pixels into the rows of the pictures that can be read, from where it was stopped."""
        progress_path = place / "progress.json"
        done = json.loads(progress_path.read_text())["num_pictures"] if progress_path.exists() else 0
        for start, block in self._pixels(pictures, first=done, num_views=num_views):
            readable = [start + position for position, views in enumerate(block) if views is not None]
            arrays["readable"][start : start + len(block)] = [views is not None for views in block]
            if readable:
                rows = (np.array(readable)[:, np.newaxis] * num_views + np.arange(num_views)).reshape(-1)
                pixels = np.concatenate([views for views in block if views is not None])
                for chunk in range(0, len(rows), ROWS_AT_ONCE):
                    fill(rows[chunk : chunk + ROWS_AT_ONCE], pixels[chunk : chunk + ROWS_AT_ONCE])
            done = start + len(block)
            if done == len(pictures) or done % (PICTURES_PER_BLOCK * BLOCKS_PER_COMMIT) == 0:
                for array in arrays.values():
                    array.flush()
                with replacing(progress_path) as temporary:
                    temporary.write_text(json.dumps({"num_pictures": done}))
            on_progress(done)

    def _texts(self, place: Path, captions: Sequence[str]) -> dict[str, NDArray[Any]]:
        path = place / "texts-with-ids.safetensors"
        if not path.exists():
            tokens: list[NDArray[np.float16]] = []
            token_ids: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
            embeddings: list[NDArray[np.float32]] = []
            for start in range(0, len(captions), TEXTS_PER_BLOCK):
                embedded, found = self._encoder.embed_texts_with_tokens(captions[start : start + TEXTS_PER_BLOCK])
                embeddings.append(embedded)
                tokens += [row.hidden_states.astype(np.float16) for row in found.rows()]
                token_ids.append(found.token_ids[found.mask])
            dim = self._encoder.embedding_dim
            content: dict[str, NDArray[Any]] = {
                "tokens": np.concatenate(tokens) if tokens else np.empty((0, self._encoder.text_token_dim), dtype=np.float16),
                "token_ids": np.concatenate(token_ids),
                "start": np.cumsum([0, *map(len, tokens)]).astype(np.int64),
                "embeddings": np.concatenate(embeddings) if embeddings else np.empty((0, dim), dtype=np.float32),
            }
            with replacing(path) as temporary:
                save_file(content, temporary)
        return load_file(path)

    def _pixels(
        self, pictures: Sequence[CaptionedPicture], *, first: int, num_views: int
    ) -> Iterator[tuple[int, list[NDArray[Any] | None]]]:
        """Blocks of pictures, each as what `prepare` gives of its views, (num_views, ...), or None where it cannot be decoded."""

        def views_of(position: int) -> NDArray[Any] | None:
            picture = pictures[position]
            generator = np.random.default_rng([self._seed, position])
            try:
                side = 2 * self._encoder.image_side
                image = decode_image(picture.read_bytes(), name=picture.key, max_pixels=self._max_pixels, target_side=side).image
            except (UnreadableImage, OSError) as error:
                logger.warning("left out of training: %s", error)
                return None
            crops = [draw_crop(*image.size, view=view, generator=generator) for view in range(num_views)]
            return np.stack([self._encoder.prepare(crop.of(image)) for crop in crops])

        with ThreadPoolExecutor(max_workers=2) as pool:
            starts = range(first, len(pictures), PICTURES_PER_BLOCK)
            blocks = [range(start, min(start + PICTURES_PER_BLOCK, len(pictures))) for start in starts]
            if not blocks:
                return
            waiting = [pool.submit(views_of, position) for position in blocks[0]]
            for block, following in zip(blocks, [*blocks[1:], range(0)], strict=True):
                ahead = [pool.submit(views_of, position) for position in following]
                yield block.start, [future.result() for future in waiting]
                waiting = ahead


def _opened(place: Path, shapes: dict[str, tuple[tuple[int, ...], type]]) -> dict[str, np.memmap]:
    """Arrays of a cache that was begun, or new ones. Raises `OutOfSpace`."""
    paths = {name: place / f"{name}.npy" for name in shapes}
    try:
        return {name: np.lib.format.open_memmap(path, mode="r+") for name, path in paths.items()}
    except (FileNotFoundError, ValueError):
        (place / "progress.json").unlink(missing_ok=True)
    needed = sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in shapes.values())
    free = shutil.disk_usage(place).free
    if needed > free:  # asked now: writing to a mapped file on a full disk kills the process
        raise OutOfSpace(f"{place}: what is cached of the pictures takes {needed:,} bytes and the disk has {free:,}")
    created = {}
    for name, (shape, dtype) in shapes.items():
        with replacing(paths[name]) as temporary:
            created[name] = np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=shape)
    return created


def _caption_id(caption: str) -> int:
    return int.from_bytes(hashlib.sha256(caption.encode("utf-8", "replace")).digest()[:8], signed=True)


def principal_components(rows: NDArray[np.float32], *, num_components: int) -> TokenBasis:
    """Of rows (n, token_dim), standardised; all of them where token_dim is no larger than `num_components`."""
    mean, std = rows.mean(axis=0), rows.std(axis=0) + np.float32(_MIN_STD)
    standardised = torch.from_numpy((rows - mean) / std)
    covariance = standardised.T @ standardised / len(rows)  # (token_dim, token_dim)
    components = _strongest_directions(covariance, num_directions=num_components)
    return TokenBasis(mean, std, components.numpy())


def _strongest_directions(covariance: Tensor, *, num_directions: int) -> Tensor:
    """Orthonormal columns (token_dim, num_directions), those of the largest variance first.

    By subspace iteration (Halko, Martinsson and Tropp 2011): all eigenvectors of sightline-mini's 3,264 numbers take 28 s, of which
    one in six is kept; these take 3 s.
    """
    num_tried = num_directions + _SPARE_DIRECTIONS
    directions = torch.eye(len(covariance))
    if num_tried < len(covariance):
        directions = torch.randn(len(covariance), num_tried, generator=torch.Generator().manual_seed(0))
        for _ in range(_SUBSPACE_STEPS):
            directions = torch.linalg.qr(covariance @ directions).Q
    _, turns = torch.linalg.eigh((directions.T @ covariance @ directions).double())  # ascending
    strongest: Tensor = directions @ turns.flip(1)[:, :num_directions].float()
    return strongest.contiguous()
