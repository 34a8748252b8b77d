"""The app: routes, what wraps every request, and what a request that goes wrong gets."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from api.http.authentication import Authentication
from api.http.problems import answer_problems
from api.http.rate_limit import RateLimit
from api.http.request_id import RequestIds
from api.http.routes import collections, explain, items, jobs, runs, search
from api.http.routes.page import create_page_router
from api.http.service import Service
from api.http.slow_clients import SlowBodies
from sightline import __version__


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Jobs run while the app does."""
    service: Service = app.state.service
    service.runner.start()
    yield
    service.stopping.set()
    await run_in_threadpool(service.runner.stop)
    service.decoder.close()


def create_app(service: Service) -> FastAPI:
    """The ASGI app over an open store; closing the store is its owner's to do."""
    app = FastAPI(title="Sightline", version=__version__, description="Find pictures and texts by describing them.", lifespan=_lifespan)
    app.state.service = service
    answer_problems(app)
    for module in (collections, explain, items, jobs, runs, search):
        app.include_router(module.router)
    app.include_router(create_page_router())
    settings = service.settings
    rate_limit = None if settings.rate_limit_per_minute is None else RateLimit(settings.rate_limit_per_minute)
    app.add_middleware(Authentication, access=service.access, rate_limit=rate_limit, origins=settings.cors_origins)
    app.add_middleware(SlowBodies)
    app.add_middleware(RequestIds)
    return app
