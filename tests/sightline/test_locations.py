"""Where items are."""

import pytest

from sightline.locations import is_upload, locate

_SHA256 = "3fa9" * 16


@pytest.mark.parametrize(
    ("source", "key", "location"),
    [
        ("/home/ann/Pictures/", "2024/cat.jpg", "/home/ann/Pictures/2024/cat.jpg"),
        ("/data/photos.csv", "img/cat.jpg", "/data/img/cat.jpg"),
        ("/data/photos.csv", "/mnt/disk/cat.jpg", "/mnt/disk/cat.jpg"),
        ("/data/photos.csv", "https://example.org/cat.jpg", "https://example.org/cat.jpg"),
        (f"/s/uploads/7/3f/{_SHA256}", "cat.jpg", f"/s/uploads/7/3f/{_SHA256}"),
        (f"/s/uploads/7/3f/{_SHA256}", "/etc/passwd", f"/s/uploads/7/3f/{_SHA256}"),
        (f"/s/uploads/7/3f/{_SHA256}", "../../../etc/passwd", f"/s/uploads/7/3f/{_SHA256}"),
        (f"/s/uploads/7/3f/{_SHA256}", "https://example.org/cat.jpg", f"/s/uploads/7/3f/{_SHA256}"),
    ],
)
def test_locations(source: str, key: str, location: str) -> None:
    assert locate(source, key) == location


@pytest.mark.parametrize(
    "source", [f"/s/uploads/7/00/{_SHA256}", f"/s/uploads/x/3f/{_SHA256}", f"/s/uploads/7/3f/{_SHA256}/", "/s/uploads/photos.csv"]
)
def test_what_is_no_upload(source: str) -> None:
    assert not is_upload(source)
