"""What the routes work with, wired once: the open store, its settings, and who may do what.

A request runs its blocking part (SQL, FAISS, networks) on a thread; the loop only waits. Everything here is thread-safe.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

from fastapi import Depends, Request

from api.http.access import AccessList
from api.http.admission import MAX_RUNNING, Admission, lateness_of_this_request
from api.http.decoding import PictureDecoder
from api.http.jobs.ordering import decoding_limits, order_of, remove_what_it_needed
from api.http.jobs.runner import JobRunner
from api.http.jobs.watching import JobWatch
from api.http.joining import joining
from api.http.metrics import Metrics
from api.http.pictures import Pictures
from api.http.refusals import Refusals
from api.http.settings import ServiceSettings
from api.http.threads import leaders_at_once
from api.http.warming import Warming
from api.library import Sightline

UPLOADS_AT_ONCE = 2
"""Uploads that are indexed at once, each on a thread: more would take the cores from searches; they become jobs."""


@dataclass(frozen=True, slots=True)
class Service:
    """One running service."""

    sightline: Sightline
    settings: ServiceSettings
    pictures: Pictures = field(init=False)
    runner: JobRunner = field(init=False)
    job_watch: JobWatch = field(init=False)
    uploading: threading.Semaphore = field(init=False, default_factory=lambda: threading.BoundedSemaphore(UPLOADS_AT_ONCE))
    searching: ThreadPoolExecutor = field(init=False, default_factory=lambda: ThreadPoolExecutor(MAX_RUNNING, "search"))
    stopping: threading.Event = field(init=False, default_factory=threading.Event)  # set when the process is told to end
    access: AccessList = field(init=False)
    refusals: Refusals = field(init=False)
    metrics: Metrics = field(init=False)
    admission: Admission = field(init=False)
    warming: Warming = field(init=False)
    decoder: PictureDecoder = field(init=False)  # of pictures that strangers send

    def __post_init__(self) -> None:
        settings = self.settings
        shared = joining(
            self.sightline,
            max_batch=settings.max_batch,
            batch_wait_ms=settings.batch_wait_ms,
            lateness=lateness_of_this_request,
            num_leaders=leaders_at_once(),
        )
        object.__setattr__(self, "sightline", shared)
        object.__setattr__(self, "warming", Warming(shared))
        admission = Admission(max_waiting=settings.max_waiting_requests, deadline_ms=settings.request_deadline_ms)
        object.__setattr__(self, "admission", admission)
        object.__setattr__(self, "refusals", Refusals(self.sightline.store.audit))
        object.__setattr__(self, "metrics", Metrics(self.sightline.store))
        object.__setattr__(self, "access", AccessList(self.sightline.store, host=self.settings.host))
        object.__setattr__(self, "decoder", PictureDecoder(decoding_limits(settings)))
        object.__setattr__(self, "pictures", Pictures(max_pixels=self.sightline.settings.max_pixels, decoder=self.decoder))
        self._wire_jobs()

    def _wire_jobs(self) -> None:
        store = self.sightline.store
        order = partial(order_of, sightline=self.sightline, settings=self.settings)
        runner = JobRunner(store.jobs, folder=store.folder, order_of=order, tidy_up=partial(remove_what_it_needed, store=store))
        object.__setattr__(self, "runner", runner)
        object.__setattr__(self, "job_watch", JobWatch(store.jobs))


async def service_of(request: Request) -> Service:
    """The service that the request's app was made for."""
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(service_of)]
"""The service, as a parameter of a route."""
