"""Fonts for names in any script."""

import pytest

from api.typeface import font_for


def test_plain_latin_is_drawn_with_the_font_that_pillow_brings() -> None:
    font, text = font_for("IMG_0042.jpg · 0.312", size=16)
    assert text == "IMG_0042.jpg · 0.312"
    assert font.getlength(text) > 50


@pytest.mark.parametrize(("name", "plain"), [("Größe.jpg", "Große.jpg"), ("été.png", "ete.png"), ("日本.png", "??.png")])
def test_other_letters_are_drawn_as_they_are_or_come_as_near_as_the_machine_can(name: str, plain: str) -> None:
    _, text = font_for(name, size=16)
    assert text in (name, plain, plain.replace("ß", "?"))
