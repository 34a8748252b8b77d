"""The files of the pages: how they are sent, and that they need nothing else."""

import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import api.http
from api.http.routes.page import read_web_files

WEB = Path(api.http.__file__).parent / "web"
PAGES = ("index.html", "admin.html")


@pytest.mark.parametrize("path", ["/", "/admin", "/web/css/base.css", "/web/js/page.js", "/web/favicon.svg"])
def test_a_file_is_kept_by_the_browser_and_asked_about(client: TestClient, path: str) -> None:
    first = client.get(path)
    assert first.status_code == 200
    assert first.headers["cache-control"] == "no-cache"
    again = client.get(path, headers={"If-None-Match": f'W/"other", {first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get(path, headers={"If-None-Match": '"other"'}).content == first.content
    assert client.head(path).status_code == 200


def test_scripts_are_sent_as_scripts(client: TestClient) -> None:
    assert client.get("/web/js/page.js").headers["content-type"] == "text/javascript; charset=utf-8"


@pytest.mark.parametrize(
    "path", ["/web/js/none.js", "/web/../settings.py", "/web/..%2fsettings.py", "/web/%2e%2e/app.py", "/web//etc/passwd", "/web/"]
)
def test_nothing_else_is_sent(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


def test_every_file_is_sent() -> None:
    assert set(read_web_files()) == {path.relative_to(WEB).as_posix() for path in WEB.rglob("*") if path.is_file()}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_no_script_or_style_inside(page: str) -> None:
    text = (WEB / page).read_text()
    assert re.findall(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|javascript:", text) == []


@pytest.mark.parametrize("path", [path.relative_to(WEB).as_posix() for path in sorted(WEB.rglob("*")) if path.is_file()])
def test_a_file_names_no_other_host_and_only_files_that_exist(path: str) -> None:
    text = (WEB / path).read_text()
    hosts = set(re.findall(r"https?://[^\s\"'`)]+", text)) - {"http://www.w3.org/2000/svg"}
    assert hosts == set()
    for named in re.findall(r"[\"'`]/web/([^\"'`]+)[\"'`]", text):
        assert (WEB / named).is_file(), named


def test_every_icon_that_is_used_is_there() -> None:
    drawn = set(re.findall(r'<symbol id="icon-([a-z]+)"', (WEB / "index.html").read_text()))
    scripts = "\n".join(path.read_text() for path in WEB.rglob("*.js"))
    used = set(re.findall(r'icon\("([a-z]+)"\)', scripts)) | set(re.findall(r'#icon-([a-z]+)"', (WEB / "index.html").read_text()))
    assert used <= drawn
