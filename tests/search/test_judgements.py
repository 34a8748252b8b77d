"""What should be found, from captions, from classes, and checked against what is there."""

import pytest

from search.judgements import DescribedPicture, JudgedBy, JudgedTexts, judged_pictures, judged_texts, with_known_keys
from sightline.errors import InvalidInput

DOG = DescribedPicture("dog.jpg", ("a dog", "a brown animal"))
CAT = DescribedPicture("cat.jpg", ("a cat",))
BARE = DescribedPicture("bare.jpg")


def test_a_caption_should_find_its_own_picture_and_a_picture_its_captions() -> None:
    judged = judged_texts([DOG, BARE, CAT], name="photos")

    assert judged.judged_by is JudgedBy.CAPTIONS
    assert judged.text_by_query == {"dog.jpg#1": "a dog", "dog.jpg#2": "a brown animal", "cat.jpg#1": "a cat"}
    assert judged.judgements == {"dog.jpg#1": {"dog.jpg": 1}, "dog.jpg#2": {"dog.jpg": 1}, "cat.jpg#1": {"cat.jpg": 1}}
    assert judged_pictures([DOG, BARE, CAT]) == {"dog.jpg": {"dog.jpg#1": 1, "dog.jpg#2": 1}, "cat.jpg": {"cat.jpg#1": 1}}


def test_a_class_should_find_all_of_its_pictures() -> None:
    pictures = [
        DescribedPicture("1", ("grand piano",), "grand_piano"),
        DescribedPicture("2", ("grand piano",), "grand_piano"),
        DescribedPicture("3", ("a shoe by Ann",), "running_shoe"),
        DescribedPicture("4", ("a shoe by Bob",), "running_shoe"),
        DescribedPicture("5", (), "7"),
    ]
    judged = judged_texts(pictures, name="things")

    assert judged.judged_by is JudgedBy.CLASSES
    # The caption that a class has in common is its name as people type it; captions of single pictures are none.
    assert judged.text_by_query == {"grand_piano": "grand piano", "running_shoe": "running shoe", "7": "7"}
    assert judged.judgements == {"grand_piano": {"1": 1, "2": 1}, "running_shoe": {"3": 1, "4": 1}, "7": {"5": 1}}


def test_captions_judge_where_one_picture_has_no_class() -> None:
    assert judged_texts([DescribedPicture("1", ("a piano",), "piano"), CAT], name="things").judged_by is JudgedBy.CAPTIONS


@pytest.mark.parametrize(
    ("pictures", "sentence"),
    [
        ([], "photos holds no picture that can be searched"),
        ([DOG], "photos holds one picture that .* every ranking is right"),
        ([BARE, BARE], "none of the 2 pictures of photos has a caption.*--judgements"),
        ([DescribedPicture("1", ("a dog",)), DescribedPicture("2", ("a dog",))], "every caption of photos is the same .'a dog'."),
        ([DescribedPicture("1", (), "dog"), DescribedPicture("2", (), "dog")], "nothing tells the pictures apart"),
    ],
)
def test_what_measures_nothing_is_refused(pictures: list[DescribedPicture], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        judged_texts(pictures, name="photos")


def test_keys_that_are_not_there_are_told_and_count_as_not_found() -> None:
    judged = JudgedTexts(JudgedBy.PERSON, {"q": "dogs"}, {"q": {"dog.jpg": 2, "gone.jpg": 1, "other.jpg": 0}})

    kept, notes = with_known_keys(judged, ["dog.jpg", "cat.jpg"], name="photos")
    assert kept == judged
    assert notes == ("1 of 2 relevant keys are not in photos and count as not found, such as 'gone.jpg'",)
    assert with_known_keys(judged, ["dog.jpg", "gone.jpg"], name="photos") == (judged, ())

    with pytest.raises(InvalidInput, match=r"none of the 2 relevant keys .*'dog.jpg', is in photos; its keys look like 'cat.jpg'"):
        with_known_keys(judged, ["cat.jpg"], name="photos")
    with pytest.raises(InvalidInput, match="which holds no picture"):
        with_known_keys(judged, [], name="photos")
