"""Segment files: what is written is read, and what has changed since is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from sightline.errors import CorruptSegment, SchemaTooNew
from sightline.storage.sealed_files import write_synced
from sightline.storage.segment import FORMAT, MANIFEST, SegmentBuilder, open_segment, write_manifest
from sightline.types import Modality
from tests.sightline.storage.synthetic import unit_rows

_FILES = ["embeddings.fp16", "item_ids.i64", "sum.f64", "hubness_bias.f32", "manifest.json"]
_BIASES = np.array([0.1, 0.2, 0.3, 0.4], dtype=np.float32)


def _segment(folder: Path) -> str:
    builder = SegmentBuilder(folder, modality=Modality.IMAGE, embedding_dim=16, bank_fingerprint="ba9c")
    builder.append(np.array([3, 5, 9]), unit_rows(3).astype(np.float16), _BIASES[:3])
    builder.append(np.array([10]), unit_rows(1, seed=1).astype(np.float16), _BIASES[3:])
    return builder.seal()[1]


def test_rows_are_found_by_item_id(tmp_path: Path) -> None:
    segment = open_segment(tmp_path / "a", manifest_sha256=_segment(tmp_path / "a"))
    assert segment.rows_of(np.array([1, 3, 9, 11])).tolist() == [0, 2]
    expected = np.concatenate((unit_rows(3), unit_rows(1, seed=1))).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(segment.gather(np.array([3, 0])), expected[[3, 0]])
    np.testing.assert_allclose(segment.sum, expected.sum(axis=0), atol=1e-5)
    assert segment.biases is not None
    np.testing.assert_array_equal(segment.biases, _BIASES)
    assert segment.manifest.bank_fingerprint == "ba9c"
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted(_FILES)


@pytest.mark.parametrize("name", _FILES)
def test_a_file_cut_short_by_one_byte_is_refused(tmp_path: Path, name: str) -> None:
    sha256 = _segment(tmp_path / "a")
    path = tmp_path / "a" / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptSegment, match=rf"{name} is damaged.*sightline verify"):
        open_segment(tmp_path / "a", manifest_sha256=sha256)


@pytest.mark.parametrize("name", _FILES)
def test_a_file_with_one_byte_changed_is_refused(tmp_path: Path, name: str) -> None:
    sha256 = _segment(tmp_path / "a")
    content = bytearray((tmp_path / "a" / name).read_bytes())
    for position in range(len(content)):
        content[position] ^= 1
        (tmp_path / "a" / name).write_bytes(content)
        with pytest.raises(CorruptSegment, match=rf"{name} is damaged"):
            open_segment(tmp_path / "a", manifest_sha256=sha256)
        content[position] ^= 1


@pytest.mark.parametrize("name", _FILES)
def test_a_missing_file_is_left_to_the_caller(tmp_path: Path, name: str) -> None:
    sha256 = _segment(tmp_path / "a")
    (tmp_path / "a" / name).unlink()
    with pytest.raises(FileNotFoundError):
        open_segment(tmp_path / "a", manifest_sha256=sha256)


def test_a_segment_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    _segment(tmp_path / "a")
    manifest = json.loads((tmp_path / "a" / MANIFEST).read_bytes())
    seal = write_synced(tmp_path / "a" / MANIFEST, json.dumps({**manifest, "format": FORMAT + 1}).encode())
    with pytest.raises(SchemaTooNew, match="newer Sightline"):
        open_segment(tmp_path / "a", manifest_sha256=seal.sha256)


def test_a_segment_of_the_first_format_is_read_as_ever(tmp_path: Path) -> None:
    """As it was written before there were biases: its manifest has no word of them."""
    builder = SegmentBuilder(tmp_path / "a", modality=Modality.TEXT, embedding_dim=16)
    builder.append(np.array([1, 2]), unit_rows(2).astype(np.float16))
    manifest, _ = builder.seal()
    fields = json.loads(manifest.to_json())
    del fields["bank_fingerprint"]
    seal = write_synced(tmp_path / "a" / MANIFEST, json.dumps({**fields, "format": 1}).encode())
    segment = open_segment(tmp_path / "a", manifest_sha256=seal.sha256)
    assert segment.biases is None
    assert segment.manifest == manifest
    assert write_manifest(tmp_path / "a", segment.manifest) != seal.sha256  # what is written now is of the present format
