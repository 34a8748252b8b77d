"""What validation found wrong with a request, in a sentence that says where in what was sent it is."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError

_BODY = "body"
_OF_PYDANTIC = "Value error, "
_EXPECTED = "Input should be "


def sentence_of_validation(error: RequestValidationError) -> str:
    """The first thing that is wrong; where one of several forms would do, what each of them lacks, or the one that came nearest does."""
    found = [(_place(each, error.body), each["msg"].removeprefix(_OF_PYDANTIC)) for each in error.errors()]
    first, _ = found[0]
    of_its_forms = [each for each in found if each[0][: len(first)] == first]
    deepest = max(of_its_forms, key=lambda each: len(each[0]))[0]
    one, *others = dict.fromkeys(message for place, message in of_its_forms if place == deepest)
    said = " or ".join((one, *(each.removeprefix(_EXPECTED) for each in others)))
    return f"{'.'.join(str(part) for part in deepest)}: {said}"


def _place(error: Mapping[str, Any], body: Any) -> tuple[Any, ...]:
    """Where it is in what was sent: pydantic also names the form that it tried there, such as `str` or a model."""
    head, *parts = error["loc"]
    if head != _BODY or not isinstance(body, dict | list):
        return (head, *parts)
    node, place = body, [head]
    for position, part in enumerate(parts):
        if _holds(node, part):
            node = node[part]
            place.append(part)
        elif error["type"] == "missing" and position == len(parts) - 1:
            place.append(part)
    return tuple(place)


def _holds(node: Any, part: Any) -> bool:
    if isinstance(node, Mapping):
        return part in node
    return isinstance(node, Sequence) and not isinstance(node, str) and isinstance(part, int) and part < len(node)
