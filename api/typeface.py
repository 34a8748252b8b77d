"""A font that has the letters of a text: Pillow's own where it suffices, else one of the machine's, else the letters without marks.

Pillow brings a font of the plainest Latin only, and a file name may be in any script.
"""

import unicodedata
from functools import cache

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "Arial Unicode.ttf",
    "Arial.ttf",
    "NotoSansCJK-Regular.ttc",
    "Hiragino Sans GB.ttc",
    "msyh.ttc",
)
"""Names that Pillow looks for in the font folders of Linux, macOS and Windows: wide coverage first, then Chinese and Japanese."""

_NO_CHARACTER = "\U0010ffff"  # never assigned: a font draws its box for missing glyphs


def font_for(text: str, *, size: int) -> tuple[Font, str]:
    """A font of `size` pixels and the text to draw with it: `text` itself wherever a font has all of its letters."""
    for name in (None, *SYSTEM_FONTS):
        font = _font(name, size)
        if font is not None and all(_has_glyph(name, size, character) for character in set(text)):
            return font, text
    own = _font(None, size)
    assert own is not None  # it comes with Pillow
    plain = unicodedata.normalize("NFKD", text)
    plain = "".join(character for character in plain if not unicodedata.combining(character))
    return own, "".join(character if _has_glyph(None, size, character) else "?" for character in plain)


@cache
def _font(name: str | None, size: int) -> Font | None:
    if name is None:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None  # not on this machine


@cache
def _has_glyph(name: str | None, size: int, character: str) -> bool:
    font = _font(name, size)
    if font is None:
        return False
    return character.isspace() or bytes(font.getmask(character)) != bytes(font.getmask(_NO_CHARACTER))
