"""What can be trained on, and the split that stays when pictures are added."""

import pytest

from sightline.errors import InvalidTraining
from sightline.training.pairs import CaptionedPicture, check_measurable, check_trainable, split_by_key


def _picture(key: str, *captions: str) -> CaptionedPicture:
    return CaptionedPicture(key, captions, lambda: b"")


@pytest.mark.parametrize(
    ("pictures", "reason"),
    [
        ([], "none of the 0 pictures"),
        ([_picture("a"), _picture("b")], "none of the 2 pictures .* has a caption"),
        ([_picture("a", "a dog"), _picture("b")], "one captioned picture"),
        ([_picture("a", "a dog"), _picture("b", "a dog", "a dog")], "every caption .* is the same"),
    ],
)
def test_pictures_that_nothing_can_be_learnt_from(pictures: list[CaptionedPicture], reason: str) -> None:
    with pytest.raises(InvalidTraining, match=reason):
        check_trainable(pictures)


def test_two_captions_that_differ_are_enough() -> None:
    check_trainable([_picture("a", "a dog"), _picture("b", "a cat"), _picture("c")])


def test_what_is_to_be_measured_with_has_something_to_ask_for() -> None:
    named = CaptionedPicture("c", (), lambda: b"", "dog")
    check_measurable("val", [_picture("a"), _picture("b", "a dog")])
    check_measurable("val", [named, named])
    for nothing in ([], [_picture("a"), _picture("b")], [named, _picture("b")]):
        with pytest.raises(InvalidTraining, match="of the validation source 'val' have neither captions nor classes to ask for"):
            check_measurable("val", nothing)


def test_the_split_is_whole_stays_and_has_the_share() -> None:
    pictures = [_picture(f"{number}.jpg", "x") for number in range(2000)]

    training, held_out = split_by_key(pictures, held_out_share=0.2)
    _, held_out_later = split_by_key([*pictures, _picture("new.jpg")], held_out_share=0.2)

    assert sorted(training + held_out, key=lambda p: int(p.key[:-4])) == pictures
    assert 350 < len(held_out) < 450
    assert {picture.key for picture in held_out} <= {picture.key for picture in held_out_later}
    assert split_by_key(pictures, held_out_share=0.0)[1] == []
    assert split_by_key(pictures, held_out_share=1.0)[0] == []
