"""Contact sheets: what is drawn where, and what happens to pictures that are gone."""

import dataclasses
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from api.contact_sheet import CAPTION_HEIGHT, MARGIN, PICTURE_SIDE, draw_contact_sheet, write_contact_sheet
from api.drawing import elided, wrapped
from api.typeface import font_for
from search.engine import Answer, Hit, Timings
from search.query import parse_query
from sightline.errors import InvalidInput
from sightline.types import CollectionId, ItemId, JsonObject, Modality

GREY = (236, 236, 240)


def hit(rank: int, path: Path, *, modality: Modality = Modality.IMAGE, text: str | None = None) -> Hit:
    return Hit(
        rank=rank,
        item_id=ItemId(rank),
        key=path.name,
        location=str(path),
        modality=modality,
        similarity=1 - rank / 100,
        adjusted_similarity=None,
        centred_similarity=None,
        text=text,
        metadata=JsonObject(),
        width=None,
        height=None,
    )


def answer(*hits: Hit, words: str = "a dog on the beach") -> Answer:
    timings = Timings(embed_ms=1, retrieve_ms=1, metadata_ms=1)
    return Answer(parse_query(words), "default", CollectionId(1), hits, plan="exact", notes=(), timings=timings)


def picture(folder: Path, name: str, size: tuple[int, int], colour: str) -> Path:
    Image.new("RGB", size, colour).save(folder / name)
    return folder / name


def box_of(sheet: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int] | None:
    """The smallest box around all pixels of exactly that colour."""
    mask = Image.new("L", sheet.size)
    mask.putdata([255 if pixel == colour else 0 for pixel in sheet.get_flattened_data()])
    return mask.getbbox()


def test_pictures_keep_their_shapes_and_stand_on_one_line(tmp_path: Path) -> None:
    wide = picture(tmp_path, "wide.png", (960, 480), "red")
    tall = picture(tmp_path, "tall.png", (300, 600), "blue")

    sheet = draw_contact_sheet(answer(hit(1, wide), hit(2, tall)), max_pixels=10**6)

    red, blue = box_of(sheet, (255, 0, 0)), box_of(sheet, (0, 0, 255))
    assert red is not None
    assert blue is not None
    assert (red[2] - red[0], red[3] - red[1]) == (PICTURE_SIDE, PICTURE_SIDE // 2)
    assert (blue[2] - blue[0], blue[3] - blue[1]) == (PICTURE_SIDE // 2, PICTURE_SIDE)
    assert red[3] == blue[3]
    assert sheet.height == red[3] + CAPTION_HEIGHT + MARGIN


def test_small_pictures_are_not_blown_up(tmp_path: Path) -> None:
    sheet = draw_contact_sheet(answer(hit(1, picture(tmp_path, "tiny.png", (20, 10), "red"))), max_pixels=10**6)
    box = box_of(sheet, (255, 0, 0))
    assert box is not None
    assert (box[2] - box[0], box[3] - box[1]) == (20, 10)


def test_pictures_that_are_gone_or_broken_leave_a_grey_square(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 cut short")
    sheet = draw_contact_sheet(answer(hit(1, tmp_path / "gone.jpg"), hit(2, broken)), max_pixels=10**6)

    top = sheet.height - MARGIN - CAPTION_HEIGHT - PICTURE_SIDE
    for column in range(2):
        left = MARGIN + column * (PICTURE_SIDE + MARGIN)
        assert sheet.getpixel((left + 1, top + 1)) == GREY
        assert sheet.getpixel((left + PICTURE_SIDE - 1, top + PICTURE_SIDE - 1)) == GREY


def test_a_picture_inside_a_shard_is_drawn_too(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train-0.tar", "w") as shard:
        shard.add(picture(tmp_path, "red.png", (30, 20), "red"), arcname="red.png")
    (tmp_path / "red.png").unlink()

    inside, missing = tmp_path / "train-0.tar" / "red.png", tmp_path / "train-0.tar" / "blue.png"
    sheet = draw_contact_sheet(answer(hit(1, inside), hit(2, missing)), max_pixels=10**6)

    assert box_of(sheet, (255, 0, 0)) is not None
    assert box_of(sheet, GREY) is not None


def test_a_row_is_as_high_as_its_highest_picture(tmp_path: Path) -> None:
    wide = picture(tmp_path, "wide.png", (240, 60), "red")
    sheet = draw_contact_sheet(answer(hit(1, wide), hit(2, wide)), max_pixels=10**6)
    assert sheet.height < 240


def test_a_text_is_written_where_its_picture_would_be(tmp_path: Path) -> None:
    text = hit(1, tmp_path / "notes.txt:1", modality=Modality.TEXT, text="two children on a swing " * 50)
    sheet = draw_contact_sheet(answer(text), max_pixels=10**6)
    assert box_of(sheet, GREY) is not None


def test_no_hits_are_a_sheet_that_says_so() -> None:
    sheet = draw_contact_sheet(answer(), max_pixels=1)
    assert sheet.width > 3 * PICTURE_SIDE
    assert sheet.height < 100


def test_a_sheet_is_as_wide_as_a_screen_rather_than_a_strip(tmp_path: Path) -> None:
    path = picture(tmp_path, "red.png", (PICTURE_SIDE, PICTURE_SIDE), "red")
    sheet = draw_contact_sheet(answer(*(hit(rank, path) for rank in range(1, 13))), max_pixels=10**6)
    assert 1 < sheet.width / sheet.height < 2.2


def test_the_same_answer_gives_the_same_sheet(tmp_path: Path) -> None:
    given = answer(hit(1, picture(tmp_path, "red.png", (30, 40), "red")))
    assert draw_contact_sheet(given, max_pixels=10**6).tobytes() == draw_contact_sheet(given, max_pixels=10**6).tobytes()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_the_suffix_chooses_the_format_and_nothing_else_is_left_in_the_folder(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    write_contact_sheet(answer(), folder / f"sheet{suffix}", max_pixels=1)

    assert [path.name for path in folder.iterdir()] == [f"sheet{suffix}"]
    with Image.open(folder / f"sheet{suffix}") as sheet:
        assert sheet.mode == "RGB"


@pytest.mark.parametrize("name", ["sheet", "sheet.txt", "sheet.xyz"])
def test_a_suffix_that_names_no_format_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match=r"end the name in \.png"):
        write_contact_sheet(answer(), tmp_path / name, max_pixels=1)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"nowhere.*cannot be written: No such file or directory"):
        write_contact_sheet(answer(), tmp_path / "nowhere" / "sheet.png", max_pixels=1)


def test_long_titles_are_wrapped_and_end_in_an_ellipsis() -> None:
    font, _ = font_for("a", size=16)
    lines = wrapped("a very long question " * 20, font, width=200, num_lines=2)
    assert len(lines) == 2
    assert lines[-1].endswith("…")
    assert all(font.getlength(line) <= 200 for line in lines)


def test_a_long_name_keeps_both_ends() -> None:
    font, _ = font_for("a", size=16)
    short = elided("IMG_20240101_the_very_long_name_of_a_picture.jpg", font, width=200)
    assert short.startswith("IMG_")
    assert short.endswith(".jpg")
    assert "…" in short
    assert font.getlength(short) <= 200


def test_hits_beyond_the_limit_are_not_drawn(tmp_path: Path) -> None:
    many = answer(*(dataclasses.replace(hit(1, tmp_path / "gone.png"), rank=rank) for rank in range(1, 500)))
    assert draw_contact_sheet(many, max_pixels=1).height < 6000
