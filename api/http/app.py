"""The app: routes, what wraps every request, and what a request that goes wrong gets."""

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from api.http.admission import EarlyRefusal
from api.http.authentication import Authentication
from api.http.authorisation import administrative
from api.http.body_limit import BodyLimit, BodyLimits
from api.http.cross_origin import CrossOrigin
from api.http.examples import show_examples
from api.http.problems import answer_problems, name_answers_before_routes
from api.http.rate_limit import RateLimit
from api.http.request_id import RequestIds
from api.http.routes import aliases, audit, collections, compatible, explain, health, items, jobs, keys, operation, runs, search, uploads
from api.http.routes.page import create_page_router
from api.http.security_headers import SecurityHeaders
from api.http.service import Service
from api.http.slow_clients import SlowBodies
from api.http.telemetry import Telemetry
from api.http.uploads.batches import taking_uploads
from sightline import __version__

# In the order in which they are asked for a path: searches first.
_MODULES = (search, aliases, audit, collections, compatible, explain, health, items, jobs, keys, operation, runs, uploads)
_ROUTERS = tuple(module.router for module in _MODULES)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Jobs run while the app does."""
    service: Service = app.state.service
    with ExitStack() as stack:
        await run_in_threadpool(stack.enter_context, taking_uploads(service.sightline.store))
        service.runner.start()
        yield
        service.stopping.set()
        await run_in_threadpool(service.runner.stop)
        service.decoder.close()
        service.searching.shutdown(wait=False)


def create_app(service: Service) -> FastAPI:
    """The ASGI app over an open store; closing the store is its owner's to do."""
    app = FastAPI(
        title="Sightline",
        version=__version__,
        description="Find pictures and texts by describing them.",
        lifespan=_lifespan,
        docs_url=None,  # FastAPI's pages load their scripts from hosts elsewhere
        redoc_url=None,
        redirect_slashes=False,  # an address has one spelling: see `api.http.addresses`
    )
    app.state.service = service
    for router in _ROUTERS:
        app.include_router(router)
    app.include_router(create_page_router())
    answer_problems(app)
    _wrap(app, service)
    name_answers_before_routes(app)
    show_examples(app)
    return app


def _wrap(app: FastAPI, service: Service) -> None:
    """Middleware, from the innermost to the outermost: who asks is known, and paid for, before a body is read."""
    settings = service.settings
    limits = BodyLimits(settings.max_body_bytes, settings.max_json_bytes, settings.max_upload_bytes)
    rate_limit = None if settings.rate_limit_per_minute is None else RateLimit(settings.rate_limit_per_minute)
    app.add_middleware(BodyLimit, limits=limits)
    routes = [route for router in _ROUTERS for route in router.routes]
    app.add_middleware(
        Authentication,
        access=service.access,
        rate_limit=rate_limit,
        refusals=service.refusals,
        is_administrative=administrative(routes),
        origins=settings.cors_origins,
    )
    app.add_middleware(SlowBodies)
    app.add_middleware(EarlyRefusal, admission=service.admission, routes=routes)
    if settings.cors_origins:
        app.add_middleware(
            CrossOrigin,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["Authorization", "X-API-Key", "Content-Type", "X-Request-ID", "X-Deadline-Ms", "Idempotency-Key"],
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    app.add_middleware(SecurityHeaders)
    app.add_middleware(Telemetry, metrics=service.metrics)
    app.add_middleware(RequestIds)
