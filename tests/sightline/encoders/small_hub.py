"""A hub of one folder, on this machine: the few routes of the Hugging Face hub that fetching a model takes, over real HTTP."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class SmallHub(ThreadingHTTPServer):
    """Serves each folder inside `root` as the model `<owner>/<folder's name>`; `status_by_model` refuses some of them."""

    def __init__(self, root: Path, *, owner: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.owner = owner
        self.status_by_model: dict[str, HTTPStatus] = {}
        self.requests: list[str] = []

    @property
    def endpoint(self) -> str:
        """Its address, for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: SmallHub

    def do_GET(self) -> None:  # http.server looks for this name
        self._answer()

    def do_HEAD(self) -> None:  # http.server looks for this name
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.requests.append(f"{self.command} {path}")
        is_api = path.startswith("api/models/")
        parts = path.removeprefix("api/models/").split("/")
        model, route = "/".join(parts[:2]), parts[2:]
        folder = self.server.root / parts[1] if len(parts) > 1 else self.server.root
        status = self.server.status_by_model.get(model)
        if status is None and not (model.startswith(f"{self.server.owner}/") and folder.is_dir()):
            status = HTTPStatus.NOT_FOUND
        if status is not None:
            code = "RepoNotFound" if status == HTTPStatus.NOT_FOUND else "GatedRepo" if status == HTTPStatus.FORBIDDEN else "Broken"
            self._send(b"", status=status, headers={"X-Error-Code": code})
        elif is_api and route[:1] == ["tree"]:
            self._send_json([_listed(file) for file in _files(folder)])
        elif is_api:
            siblings = [{"rfilename": file.name} for file in _files(folder)]
            self._send_json({"id": model, "modelId": model, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
        else:
            content = (folder / route[-1]).read_bytes()
            self._send(content, headers={"X-Repo-Commit": COMMIT, "ETag": f'"{_digest(content)}"'})

    def _send_json(self, content: object) -> None:
        self._send(json.dumps(content).encode(), headers={"Content-Type": "application/json"})

    def _send(self, content: bytes, *, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server names it so
        """Silent: `requests` is the record."""


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file())


def _listed(file: Path) -> dict[str, object]:
    content = file.read_bytes()
    return {"type": "file", "path": file.name, "size": len(content), "oid": _digest(content)}


def _digest(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


@contextmanager
def small_hub(root: Path, *, owner: str = "tiny") -> Iterator[SmallHub]:
    """A hub over the folders inside `root`, for as long as the context lasts."""
    with SmallHub(root, owner=owner) as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
