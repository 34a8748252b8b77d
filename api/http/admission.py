"""How many searches run and wait, how long each may take, and what becomes of those that nobody waits for.

So many run as there is memory and use for; so many more wait, the first come first, and the next is told to come again (429) at once: a
queue that grows answers everybody too late. A request has a deadline, the service's or an earlier one of its own. Past it the answer is
503; what had not begun is not begun. A client that goes away frees its place.

What runs on a thread cannot be stopped. It keeps its place until it is over, and looks at its ticket where it would wait for a network.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.problems import send_problem
from sightline.errors import DeadlineExceeded, InvalidRequest, Overloaded

DEADLINE_HEADER = "X-Deadline-Ms"
"""Lowers the service's deadline for one request."""

MAX_RUNNING = 32
"""Searches that run at once. More than a network's batch gains nothing; some of FastAPI's forty threads are left to other routes."""

_SOON_S = 0.05
"""Within which most are answered: no earlier is it looked whether the client has gone, which costs a task."""

_CLIENT_IS_GONE = 499
"""What nginx calls it. Nobody reads the answer; it is what the log and the counters see."""

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Ticket:
    """One request's time."""

    def __init__(self, deadline_ms: float) -> None:
        self.deadline_ms = deadline_ms
        self._ends_at = time.monotonic() + deadline_ms / 1000
        self._is_given_up = False

    @property
    def remaining_s(self) -> float:
        """Until the deadline; 0 after it."""
        return max(0.0, self._ends_at - time.monotonic())

    def give_up(self) -> None:
        """Nobody waits for it any more."""
        self._is_given_up = True

    def refuse_if_late(self) -> None:
        """Raises `DeadlineExceeded` where nobody waits for the answer any more."""
        if self._is_given_up or not self.remaining_s:
            raise DeadlineExceeded(f"the answer was not ready within {self.deadline_ms:g} ms; try again, or with a later deadline")


_ticket: ContextVar[Ticket | None] = ContextVar("_ticket", default=None)


def lateness_of_this_request() -> Callable[[], None]:
    """What a batch asks of a call, in another thread, before it begins it; see `sightline.encoders.batching`."""
    ticket = _ticket.get()
    return (lambda: None) if ticket is None else ticket.refuse_if_late


class Admission:
    """Places for requests; used by the event loop alone."""

    def __init__(self, *, max_waiting: int, deadline_ms: float, max_running: int = MAX_RUNNING) -> None:
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._deadline_ms = deadline_ms
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.num_running = 0

    @property
    def num_waiting(self) -> int:
        """Requests that have no place yet."""
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether the next request would be refused."""
        return self.num_running >= self._max_running and len(self._waiting) >= self._max_waiting

    def overloaded(self) -> Overloaded:
        """What it would be told."""
        return Overloaded(f"{self.num_running} searches run and {len(self._waiting)} wait, which is all that may; try again in a second")

    async def answer(self, request: Request, handle: Handler) -> Response:
        """What `handle` answers, once there is a place for it.

        Raises `Overloaded` at once where too many wait, and `DeadlineExceeded`.
        """
        ticket = Ticket(self._deadline_of(request))
        try:
            await request.body()  # a client that sends slowly takes no place meanwhile
        except ClientDisconnect:
            return Response(status_code=_CLIENT_IS_GONE)
        if self._has_place_now():
            return await self._run(request, handle, ticket)
        async with _watching(request) as leaving:
            if not await self._take_turn(ticket, leaving):
                return Response(status_code=_CLIENT_IS_GONE)
        return await self._run(request, handle, ticket)

    def _deadline_of(self, request: Request) -> float:
        given = request.headers.get(DEADLINE_HEADER)
        if given is None:
            return self._deadline_ms
        if not (given.isascii() and given.isdecimal() and len(given) < 10 and int(given) > 0):
            raise InvalidRequest(f"{DEADLINE_HEADER}: {given[:40]!r} is no number of milliseconds; expected 1 or more, as digits")
        return min(self._deadline_ms, int(given))

    def _has_place_now(self) -> bool:
        """Takes a place where one is free. Raises `Overloaded` where there is none to wait for either."""
        if self.num_running < self._max_running:
            self.num_running += 1
            return True
        if self.is_full:
            raise self.overloaded()
        return False

    async def _take_turn(self, ticket: Ticket, leaving: "asyncio.Task[None]") -> bool:
        """Waits for a place; false where the client went away meanwhile. Raises `DeadlineExceeded`."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await asyncio.wait((turn, leaving), timeout=ticket.remaining_s, return_when=asyncio.FIRST_COMPLETED)
            if turn.done() and not leaving.done():
                ticket.refuse_if_late()
                return True
        except BaseException:
            self._hand_back(turn)
            raise
        self._hand_back(turn)
        if leaving.done():
            return False
        ticket.give_up()
        ticket.refuse_if_late()
        return False

    def _hand_back(self, turn: "asyncio.Future[None]") -> None:
        """A turn that is not taken: its place goes to the next where it has come, and else it waits no more."""
        if turn.done():
            self._leave()
        else:
            self._waiting.remove(turn)

    async def _run(self, request: Request, handle: Handler, ticket: Ticket) -> Response:
        """Runs it in a place that was taken. Raises what it raises, and `DeadlineExceeded`."""
        _ticket.set(ticket)  # the task copies it, and so does the thread that the route runs on
        task = asyncio.create_task(handle(request))
        task.add_done_callback(self._over)
        await asyncio.wait((task,), timeout=min(_SOON_S, ticket.remaining_s))
        if task.done():
            return task.result()
        async with _watching(request) as leaving:
            await asyncio.wait((task, leaving), timeout=ticket.remaining_s, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            ticket.give_up()
            if leaving.done():
                return Response(status_code=_CLIENT_IS_GONE)
        ticket.refuse_if_late()
        raise AssertionError("a ticket that was given up is late")

    def _over(self, task: "asyncio.Task[Response]") -> None:
        self._leave()
        if not task.cancelled():
            task.exception()  # has been raised where somebody waited; nobody else is to hear of it

    def _leave(self) -> None:
        if self._waiting:
            self._waiting.popleft().set_result(None)  # the place goes over
        else:
            self.num_running -= 1


class AdmittedRoute(APIRoute):
    """A route whose requests need a place: `APIRouter(route_class=AdmittedRoute)`."""

    def get_route_handler(self) -> Handler:
        """The route's own, behind the service's admission."""
        handle = self.route_handler()

        async def admitted(request: Request) -> Response:
            admission: Admission = request.app.state.service.admission
            return await admission.answer(request, handle)

        return admitted

    def route_handler(self) -> Handler:
        """What answers a request that has a place."""
        return super().get_route_handler()


class EarlyRefusal:
    """Middleware that refuses what needs a place while there is none, before anything is done for it.

    `Admission` would refuse it too, but only once it knows who asks and has read the body and found the route: at five hundred refusals a
    second that took half of the processor time from those who have a place.
    """

    def __init__(self, app: ASGIApp, *, admission: Admission, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._admission = admission
        self._paths = [route.path_regex for route in routes if isinstance(route, AdmittedRoute)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] == "http" and self._admission.is_full and any(path.match(scope["path"]) for path in self._paths):
            await send_problem(self._admission.overloaded(), scope, receive, send)
        else:
            await self._app(scope, receive, send)


@asynccontextmanager
async def _watching(request: Request) -> AsyncIterator["asyncio.Task[None]"]:
    """A task that is done once the client has gone."""
    leaving = asyncio.create_task(_until_gone(request))
    try:
        yield leaving
    finally:
        leaving.cancel()


async def _until_gone(request: Request) -> None:
    """Until the client has closed the connection, or has got its answer. The body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
