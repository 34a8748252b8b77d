"""An explanation as a picture: what answered the query, as heat over the picture, and below it word by word.

All words share one scale, so that a word which found little looks like it; the large map has its own.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from api.drawing import FAINT_INK, INK, PAPER, draw_lines, elided, line_height, save_picture, wrapped
from api.typeface import font_for
from search.explain import MatchExplanation
from sightline.encoders.image_input import decode_image
from sightline.encoders.tokens import SeenBox, TokenEncoder
from sightline.errors import UnreadableImage
from sightline.locations import picture_at

MARGIN = 20  # pixels, as all lengths here
WIDTH = 1120
LARGE_SIDE = (WIDTH - 3 * MARGIN) // 2
WORDS_PER_ROW = 5
SMALL_SIDE = (WIDTH - (WORDS_PER_ROW + 1) * MARGIN) // WORDS_PER_ROW
MAX_WORDS = 40
"""More tiles are not drawn: a paragraph's every word makes no picture that anybody reads."""

TITLE_SIZE = 28
TEXT_SIZE = 17
BAR_HEIGHT = 5
GAMMA = 0.75  # below 1 shows what is weak a little better
DIMMED = 0.55  # of the picture's brightness, below the heat

_HEAT = ((0.0, (20, 11, 53)), (0.3, (114, 31, 110)), (0.55, (196, 60, 78)), (0.8, (247, 140, 38)), (1.0, (252, 245, 160)))
"""Dark to light through violet, red and orange: told apart in grey too, and by colour-blind eyes."""


@dataclass(frozen=True, slots=True)
class Explained:
    """What is drawn."""

    title: str  # the query
    location: str
    facts: tuple[str, ...]  # lines below the large pictures
    match: MatchExplanation
    width: int | None = None  # pixels of the picture, where they are known
    height: int | None = None


def write_heat_map(explained: Explained, path: Path, *, encoder: TokenEncoder, max_pixels: int) -> str | None:
    """Draws at `path`; the reason where the picture itself can't be shown, whose place is left grey then. Raises as `save_picture`."""
    try:
        source = picture_at(Path(explained.location))
        decoded = decode_image(source, name=explained.location, max_pixels=max_pixels, target_side=LARGE_SIDE)
        picture, why_not = decoded.image, None
    except UnreadableImage as error:
        picture, why_not = grey_picture(explained.width, explained.height), error.reason
    save_picture(draw_heat_map(explained, picture, encoder.seen_box(*picture.size)), path)
    return why_not


def grey_picture(width: int | None, height: int | None) -> Image.Image:
    """What stands where a picture cannot be shown, in its shape; of 4:3 where that is not known."""
    if not width or not height:
        width, height = 4, 3
    scale = LARGE_SIDE / max(width, height)
    return Image.new("RGB", (max(1, round(width * scale)), max(1, round(height * scale))), (150, 150, 155))


def draw_heat_map(explained: Explained, picture: Image.Image, seen: SeenBox) -> Image.Image:
    """`picture` beside itself under the heat of the whole query, and small ones for the words; `seen` is in its pixels."""
    match = explained.match
    large = fitted(picture, LARGE_SIDE)
    small = fitted(picture, SMALL_SIDE)
    font, title = font_for(explained.title, size=TITLE_SIZE)
    title_lines = wrapped(title, font, width=WIDTH - 2 * MARGIN, num_lines=2)
    words = match.words[:MAX_WORDS]
    num_rows = -(-len(words) // WORDS_PER_ROW)
    tile_height = small.height + 2 * line_height(TEXT_SIZE) + MARGIN
    top_of_large = MARGIN + len(title_lines) * line_height(TITLE_SIZE) + MARGIN // 2
    top_of_facts = top_of_large + large.height + MARGIN // 2
    top_of_words = top_of_facts + len(explained.facts) * line_height(TEXT_SIZE) + MARGIN
    sheet = Image.new("RGB", (WIDTH, top_of_words + num_rows * tile_height + MARGIN // 2), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw_lines(draw, title_lines, font, at=(MARGIN, MARGIN), size=TITLE_SIZE)
    scale = large.width / picture.width
    sheet.paste(large, (MARGIN, top_of_large))
    hottest = float(match.relevance.max())
    sheet.paste(heated(large, match.relevance, scaled(seen, scale), highest=hottest), (2 * MARGIN + LARGE_SIDE, top_of_large))
    for number, fact in enumerate(explained.facts):
        fact_font, text = font_for(fact, size=TEXT_SIZE)
        place = (MARGIN, top_of_facts + number * line_height(TEXT_SIZE))
        draw.text(place, elided(text, fact_font, width=WIDTH - 2 * MARGIN), font=fact_font, fill=INK if number == 0 else FAINT_INK)
    highest = max((float(word.relevance.max()) for word in words), default=0.0)
    seen_small = scaled(seen, small.width / picture.width)
    for number, word in enumerate(words):
        left = MARGIN + number % WORDS_PER_ROW * (SMALL_SIDE + MARGIN)
        top = top_of_words + number // WORDS_PER_ROW * tile_height
        sheet.paste(heated(small, word.relevance, seen_small, highest=highest), (left, top))
        _caption(draw, word.text, word.share, at=(left, top + small.height))
    return sheet


def fitted(picture: Image.Image, side: int) -> Image.Image:
    """As large as a square of `side` pixels holds, enlarged where it is smaller."""
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def scaled(box: SeenBox, scale: float) -> SeenBox:
    """The box in a picture of another size."""
    return SeenBox(box.left * scale, box.top * scale, box.right * scale, box.bottom * scale)


def heated(picture: Image.Image, relevance: NDArray[np.float32], seen: SeenBox, *, highest: float) -> Image.Image:
    """The picture in grey with the relevance (rows, columns) laid over the part that was seen; `highest` is the hottest colour."""
    heat = _spread(relevance, picture.size, seen, highest=highest)[..., None]  # (height, width, 1), in [0, 1]
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float32)
    grey = pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32) * DIMMED  # (height, width)
    anchors, colours = [place for place, _ in _HEAT], np.array([colour for _, colour in _HEAT], dtype=np.float32)
    tint = np.stack([np.interp(heat[..., 0], anchors, colours[:, channel]) for channel in range(3)], axis=-1)  # (height, width, 3)
    opacity = 0.1 + 0.62 * heat
    mixed = (grey[..., None] * (1 - heat) + pixels * heat) * (1 - opacity) + tint * opacity
    return Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8))


def _spread(relevance: NDArray[np.float32], size: tuple[int, int], seen: SeenBox, *, highest: float) -> NDArray[np.float32]:
    """The relevance over all pixels, (height, width) in [0, 1]: smooth over the seen part, nothing beyond it."""
    width, height = size
    heat = np.zeros((height, width), dtype=np.float32)
    if highest <= 0:
        return heat
    left, top = max(0, round(seen.left)), max(0, round(seen.top))
    right, bottom = min(width, round(seen.right)), min(height, round(seen.bottom))
    scaled_values = Image.fromarray(np.asarray(relevance / highest, dtype=np.float32))
    smooth = np.asarray(scaled_values.resize((right - left, bottom - top), Image.Resampling.BICUBIC))
    heat[top:bottom, left:right] = np.clip(smooth, 0, 1) ** GAMMA
    return heat


def _caption(draw: ImageDraw.ImageDraw, word: str, share: float, *, at: tuple[int, int]) -> None:
    """The word with its share, and a bar as long as that."""
    left, top = at
    percent = f"{share:.0%}"
    font, text = font_for(word, size=TEXT_SIZE)
    number_font, _ = font_for(percent, size=TEXT_SIZE)
    room = SMALL_SIDE - int(number_font.getlength(percent)) - MARGIN // 2
    draw.text((left, top + 4), elided(text, font, width=room), font=font, fill=INK)
    draw.text((left + SMALL_SIDE, top + 4), percent, font=number_font, fill=FAINT_INK, anchor="ra")
    bar_top = top + 4 + line_height(TEXT_SIZE) + 3
    draw.rectangle((left, bar_top, left + SMALL_SIDE, bar_top + BAR_HEIGHT), fill="#ececf0")
    if share > 0:
        draw.rectangle((left, bar_top, left + max(1, round(share * SMALL_SIDE)), bar_top + BAR_HEIGHT), fill="#c43c4e")
