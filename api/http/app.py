"""The app: routes, what wraps every request, and what a request that goes wrong gets."""

from fastapi import FastAPI

from api.http.problems import answer_problems
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
    app.add_middleware(RequestIds)
    return app
