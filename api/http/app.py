"""The app: routes, what wraps every request, and what a request that goes wrong gets."""

from fastapi import FastAPI

from api.http.authentication import Authentication
from api.http.problems import answer_problems
from api.http.rate_limit import RateLimit
from api.http.request_id import RequestIds
from api.http.routes import collections, items, search
from api.http.service import Service
from sightline import __version__


def create_app(service: Service) -> FastAPI:
    """The ASGI app over an open store; closing the store is its owner's to do."""
    app = FastAPI(title="Sightline", version=__version__, description="Find pictures and texts by describing them.")
    app.state.service = service
    answer_problems(app)
    for module in (collections, items, search):
        app.include_router(module.router)
    settings = service.settings
    rate_limit = None if settings.rate_limit_per_minute is None else RateLimit(settings.rate_limit_per_minute)
    app.add_middleware(Authentication, access=service.access, rate_limit=rate_limit, origins=settings.cors_origins)
    app.add_middleware(RequestIds)
    return app
