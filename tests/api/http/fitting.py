"""Requests that the OpenAPI document makes, fitted to a store: what they name becomes something that there is, and all else stays.

A document says of a key of an item that it is a text; which texts are keys only the store knows. What is fitted is found by the name of its
field, in path, query and body alike.
"""

import base64
import io
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from PIL import Image

from api import Sightline
from indexer.upserting import SentItem, Upserter
from sightline.storage.jobs import NewJob
from sightline.storage.keys import NewKey
from sightline.types import Scope

WORDS = "a red ball on the grass"


def picture() -> bytes:
    """A small one."""
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(buffer, "PNG")
    return buffer.getvalue()


_DATA_URI = "data:image/png;base64," + base64.b64encode(picture()).decode()


@dataclass
class Fitting:
    """Names of what is in a store; what a request may end or change is made anew for each."""

    sightline: Sightline
    number: "itertools.count[int]" = field(default_factory=itertools.count)

    def fit(self, case: Any, *, keeps_rest: bool) -> None:
        """Change a case of schemathesis in its path, and in query and body unless `keeps_rest`: what is wrong there stays wrong."""
        named = {name: self._of_path(case, name) for name in case.path_parameters or {}}
        case.path_parameters = {name: quote(each, safe="") if isinstance(each, str) else each for name, each in named.items()}
        if keeps_rest:
            return
        case.query = self._fitted(case.query or {})
        for name in ("cursor", "before", "after"):
            case.query.pop(name, None)
        if isinstance(case.body, dict | list):
            case.body = self._fitted(case.body)
        match case.media_type:
            case "application/x-ndjson":
                case.body = f'{{"key": "note {next(self.number)}", "text": "{WORDS}"}}\n'
            case "multipart/form-data" if "files" in case.body:
                case.body = {"files": [picture()]}
            case "multipart/form-data":
                case.body["image"] = picture()
        if "idempotency-key" in (case.headers or {}):
            case.headers["idempotency-key"] = f"key-{next(self.number)}"

    def _of_path(self, case: Any, name: str) -> str | int:
        changes_it = case.method.lower() in ("delete", "patch", "put")
        match name:
            case "collection" if changes_it and case.path == "/v1/collections/{collection}":
                return self._new_collection()
            case "collection":
                return "default"
            case "item_id":
                return self._new_item() if changes_it else 1
            case "model":
                return self.sightline.collection("default").encoder_name
            case "alias":
                alias = f"alias {next(self.number)}"
                self.sightline.store.aliases.put(alias, collection="default")
                return alias
            case "key_id":
                return self.sightline.store.keys.create(NewKey("spare", scopes=frozenset({Scope.SEARCH})))[1].key_id
            case "job_id":
                return self._new_job(case.path.rpartition("/")[2])
            case _:
                raise AssertionError(f"a path names {name}, which nothing is known to be")

    def _new_collection(self) -> str:
        name = f"spare {next(self.number)}"
        self.sightline.create_collection(name)
        return name

    def _new_item(self) -> int:
        """A text of its own."""
        record, encoder = self.sightline.collection("default"), self.sightline.encoder_of("default")
        upserter = Upserter(self.sightline.store, record, encoder, matcher=None, decode=_no_picture)
        (outcome,) = upserter.upsert([SentItem(f"spare {next(self.number)}", WORDS)], wait_s=10.0)
        assert outcome.item_id is not None
        return int(outcome.item_id)

    def _new_job(self, action: str) -> str:
        """In a state from which the action takes it elsewhere, or whose events end."""
        jobs = self.sightline.store.jobs
        job_id = jobs.enqueue(NewJob("verify", {}, "default")).job_id
        if action == "resume":
            jobs.pause(job_id)
        elif action in ("retry", "events"):
            jobs.cancel(job_id)
        return job_id

    def _fitted(self, value: Any) -> Any:
        match value:
            case dict():
                fitted = {name: self._of_field(name, self._fitted(each)) for name, each in value.items()}
                if fitted.get("rerank_depth") == 0:
                    fitted.pop("min_match", None)
                if "text" in fitted and "image" in fitted and not fitted.keys() - {"text", "image"}:  # a document is one of both
                    del fitted["image"]
                return fitted
            case list():
                return [self._fitted(each) for each in value]
            case _:
                return value

    def _of_field(self, name: str, value: Any) -> Any:
        if name in _MADE_OF and value is not None:
            return _MADE_OF[name](self, value)
        return value

    def key(self) -> str:
        """Of an item."""
        return next(iter(self.sightline.store.known_items(self.sightline.collection("default").collection_id))).key

    def embedding(self) -> list[float]:
        """Of words, by the collection's own encoder."""
        return [float(value) for value in self.sightline.encoder_of("default").embed_texts([WORDS])[0]]


def _no_picture(_path: object, name: str) -> Any:
    raise AssertionError(f"{name} is a text")


def _words(_: Fitting, value: Any) -> Any:
    return value if isinstance(value, str) and value.strip().isalnum() else WORDS


def _base64_picture(_: Fitting, _value: Any) -> str:
    return base64.b64encode(picture()).decode()


_MADE_OF: Mapping[str, Callable[[Fitting, Any], Any]] = {
    "collection": lambda _, __: "default",
    "collections": lambda _, __: ["default"],
    "model": lambda fitting, _: fitting.sightline.collection("default").encoder_name,
    "dimensions": lambda fitting, _: fitting.sightline.collection("default").embedding_dim,
    "text": _words,
    "texts": lambda _, __: [WORDS],
    "q": _words,
    "query": _words,
    "without": lambda _, value: ["people"] * len(value[:2]) if isinstance(value, list) else ["people"],
    "like": lambda fitting, value: [fitting.key()] if value else [],
    "like_id": lambda _, value: [1] if value else [],
    "like_ids": lambda _, value: [1] if value else [],
    "embedding": lambda fitting, _: fitting.embedding(),
    "image": _base64_picture,
    "cursor": lambda _, __: None,
    "input": lambda _, __: [WORDS],
    "documents": lambda _, value: [WORDS, {"text": "a tax form"}, *([{"image": _DATA_URI}] if len(value) > 1 else [])],
    "item_id": lambda _, __: 1,
    "item_ids": lambda fitting, _: [fitting._new_item()],
    "name": lambda fitting, _: f"name {next(fitting.number)}",
    "description": lambda _, __: "what it holds",
    "hubness_strength": lambda _, __: None,  # no collection of the tiny encoder has a bank
    "source": lambda _, __: None,
    "expires_in_days": lambda _, __: 1,
}
