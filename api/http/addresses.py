"""Which addresses the service has, to tell who asks for none of them, or in a way that one does not answer.

An address has one spelling. One with a slash too many is not redirected: middleware that looks at a path (limits, places, keys) would see
another one than the route that answers in the end.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute, compile_path

_MAX_CHARACTERS = 300
"""Longer paths are compared with nothing."""

_CLOSE_ENOUGH = 0.85


@dataclass(frozen=True, slots=True)
class _Template:
    """A path with names in the place of what differs, such as /v1/collections/{collection}."""

    parts: Sequence[str]
    regex: re.Pattern[str]
    methods: frozenset[str]


class Addresses:
    """The paths of an app's routes."""

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._templates = [
            _Template(context.path.split("/"), compile_path(context.path)[0], frozenset(context.methods))
            for context in iter_route_contexts(routes)
            if context.path is not None and context.methods
        ]

    def methods_of(self, path: str) -> list[str]:
        """What the path answers, of all routes that it has, sorted; nothing where there is none."""
        return sorted({method for template in self._templates if template.regex.match(path) for method in template.methods})

    def nearest(self, path: str) -> str | None:
        """The address that was probably meant, or None."""
        if len(path) > _MAX_CHARACTERS:
            return None
        parts = [part for part in path.split("/") if part]
        for spelling in ("/".join(["", *parts]), "/".join(["", "v1", *parts])):
            if self.methods_of(spelling):
                return spelling
        close = [(_closeness(parts, template.parts[1:]), template.parts[1:]) for template in self._templates]
        closeness, template_parts = max(close, key=lambda each: each[0])
        if closeness < _CLOSE_ENOUGH:
            return None
        return "/".join(["", *(given if part.startswith("{") else part for given, part in zip(parts, template_parts, strict=True))])


def _closeness(parts: Sequence[str], template_parts: Sequence[str]) -> float:
    """How alike they are, from 0 to 1, but for what a template leaves open."""
    if len(parts) != len(template_parts):
        return 0.0
    fixed = [(given, part) for given, part in zip(parts, template_parts, strict=True) if not part.startswith("{")]
    return difflib.SequenceMatcher(None, "/".join(given for given, _ in fixed), "/".join(part for _, part in fixed)).ratio()
