"""Refused attempts to administer, in the audit list: who tried what, and why they might not.

Anybody who reaches the service can be refused as often as they like, and the list is only ever added to: of one who asks and one operation
an attempt is written once in ten minutes, and sixty an hour of all together. How many were not is told by the next one that is.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from starlette.types import Scope

from api.http.request_id import request_id_of
from sightline.errors import AccessDenied, SightlineError
from sightline.storage.audit import AuditList, NewAuditEvent

logger = logging.getLogger(__name__)

NOBODY = "nobody with a valid key"
ACTION = "refused"
MOST_AN_HOUR = 60
_AGAIN_S = 600.0
_HOUR_S = 3600.0
_MAX_SUBJECT_CHARACTERS = 300


class Refusals:
    """Writes them down. Thread-safe."""

    def __init__(self, audit: AuditList, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._audit = audit
        self._clock = clock
        self._lock = threading.Lock()
        self._written_s: deque[float] = deque()
        self._written_s_by_attempt: dict[tuple[str, str], float] = {}
        self._num_left_out = 0

    def note(self, scope: Scope, error: AccessDenied, *, who: str) -> None:
        """A request was refused; a list that cannot be written to is no reason to answer it otherwise."""
        route = scope.get("route")
        operation = f"{scope['method']} {getattr(route, 'path', scope['path'])}"
        num_left_out = self._due(who, operation)
        if num_left_out is None:
            return
        client = (scope.get("client") or ("",))[0]
        details = {"why": str(error), "client": client, "num_left_out": num_left_out}
        subject = f"{scope['method']} {scope['path']}"[:_MAX_SUBJECT_CHARACTERS]
        try:
            self._audit.append(NewAuditEvent(who, ACTION, subject, request_id_of(scope), details))
        except SightlineError as error_of_list:
            logger.warning("a refused attempt at %s could not be noted: %s", operation, error_of_list)

    def _due(self, who: str, operation: str) -> int | None:
        """How many were left out since the last one, where this one is to be written."""
        with self._lock:
            now_s = self._clock()
            while self._written_s and now_s - self._written_s[0] >= _HOUR_S:
                self._written_s.popleft()
            recent = {attempt: at_s for attempt, at_s in self._written_s_by_attempt.items() if now_s - at_s < _AGAIN_S}
            if (who, operation) in recent or len(self._written_s) >= MOST_AN_HOUR:
                self._num_left_out += 1
                return None
            self._written_s.append(now_s)
            self._written_s_by_attempt = {**recent, (who, operation): now_s}
            num_left_out, self._num_left_out = self._num_left_out, 0
            return num_left_out
