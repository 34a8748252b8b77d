"""Parameters in an address that it does not take are refused, and so are those given twice.

Either would change nothing, without a word: `?top_k=5` where `limit` was meant, and the first of `?limit=5&limit=9`.
"""

import difflib
from collections.abc import Iterator

from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.requests import HTTPConnection


def require_known_parameters(connection: HTTPConnection) -> None:
    """Raises `RequestValidationError` for a parameter in the request's address that its route does not take, or that stands there twice."""
    if not connection.scope["query_string"]:
        return
    known = list(_known(connection.scope["route"].dependant))
    seen = set()
    for name, _ in connection.query_params.multi_items():
        if name not in known:
            raise _refused("extra_forbidden", name, _hint(name, known))
        if name in seen:
            raise _refused("given_twice", name, "it is given more than once; expected one value")
        seen.add(name)


def _refused(kind: str, name: str, message: str) -> RequestValidationError:
    return RequestValidationError([{"type": kind, "loc": ("query", name[:80]), "msg": message, "input": None}])


def _known(dependant: Dependant) -> Iterator[str]:
    """What a route takes, in the order in which it is declared; the fields of a model are parameters each."""
    for field in dependant.query_params:
        annotation = field.field_info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from (info.alias or name for name, info in annotation.model_fields.items())
        else:
            yield field.alias
    for each in dependant.dependencies:
        yield from _known(each)


def _hint(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"there is no such parameter here; did you mean {near[0]}?"
    return f"there is no such parameter here; it takes {', '.join(known)}" if known else "there is no such parameter here; it takes none"
