"""The pages: files of `api/http/web`, sent as they are. They hold no secrets, so that they need no key; what they ask for does.

All files are read once, when the app is made: a request then never touches the disk, and no path of a request is ever one of ours.
"""

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request, Response

from sightline.errors import NotFound

MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""By the end of the name. Said here and not guessed by the system's table, which some machines have wrong for `.js`."""

CACHE_CONTROL = "no-cache"
"""Kept by the browser and asked about each time: an upgrade is seen at once, and an unchanged file costs an empty answer."""

_ENTITY_TAG = re.compile(r'"[^"]*"|\*')


@dataclass(frozen=True, slots=True)
class WebFile:
    """One file of the pages."""

    content: bytes
    media_type: str
    entity_tag: str  # as in the header ETag, with its quotes


def read_web_files() -> dict[str, WebFile]:
    """All files of the pages by their path below `web`, such as `js/page.js`."""
    return dict(_read_below(files("api.http") / "web", prefix=""))


def create_page_router() -> APIRouter:
    """`/`, `/admin` and what they load."""
    router = APIRouter(include_in_schema=False)
    web_files = read_web_files()

    @router.api_route("/", methods=["GET", "HEAD"])
    async def search_page(request: Request) -> Response:
        return _sent(web_files["index.html"], request)

    @router.api_route("/admin", methods=["GET", "HEAD"])
    @router.api_route("/admin/", methods=["GET", "HEAD"])  # people type it so
    async def admin_page(request: Request) -> Response:
        return _sent(web_files["admin.html"], request)

    @router.api_route("/web/{path:path}", methods=["GET", "HEAD"])
    async def web_file(path: str, request: Request) -> Response:
        if path not in web_files:
            raise NotFound(f"there is no file {path!r} of the pages")
        return _sent(web_files[path], request)

    return router


def _read_below(folder: Traversable, *, prefix: str) -> list[tuple[str, WebFile]]:
    found: list[tuple[str, WebFile]] = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _read_below(entry, prefix=f"{prefix}{entry.name}/")
            continue
        media_type = MEDIA_TYPES.get("." + entry.name.rpartition(".")[2])
        if media_type is not None:
            content = entry.read_bytes()
            found.append((prefix + entry.name, WebFile(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')))
    return found


def _sent(web_file: WebFile, request: Request) -> Response:
    headers = {"ETag": web_file.entity_tag, "Cache-Control": CACHE_CONTROL}
    known = _ENTITY_TAG.findall(request.headers.get("if-none-match", ""))  # weak ones too: they are the same content
    if web_file.entity_tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(web_file.content, media_type=web_file.media_type, headers=headers)
