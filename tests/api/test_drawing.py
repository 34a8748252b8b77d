"""Where a picture may be put is found out before it is drawn."""

from pathlib import Path

import pytest
from PIL import Image

from api.drawing import check_drawable, save_picture
from sightline.errors import InvalidInput


def test_what_can_be_written_passes_and_leaves_nothing_behind(tmp_path: Path) -> None:
    check_drawable(tmp_path / "out.png", what="curve")
    assert list(tmp_path.iterdir()) == []
    save_picture(Image.new("RGB", (2, 2)), tmp_path / "out.png", what="curve")
    check_drawable(tmp_path / "out.png", what="curve")
    assert list(tmp_path.iterdir()) == [tmp_path / "out.png"]


def test_what_cannot_is_refused_in_the_words_of_writing_it(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_text("")
    for path, sentence in [
        (tmp_path / "out.txt", r"'\.txt' is no format that a curve can be written in; end the name in \.png or \.jpg"),
        (tmp_path / "out", "'' is no format"),
        (tmp_path / "nowhere" / "out.png", "the curve cannot be written: No such file or directory"),
        (tmp_path / "file" / "out.png", "the curve cannot be written: Not a directory"),
        (tmp_path / "folder.png", "the curve cannot be written: "),
    ]:
        with pytest.raises(InvalidInput, match=sentence):
            check_drawable(path, what="curve")
        with pytest.raises(InvalidInput, match=sentence):
            save_picture(Image.new("RGB", (2, 2)), path, what="curve")
