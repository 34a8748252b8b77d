"""What an administrator sees and sets of the running service: its settings, and how much it logs."""

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from api.http.auditing import AuditorDep
from api.http.authorisation import MayAdminister
from api.http.problems import problem_responses
from api.http.schemas import Body
from api.http.service import ServiceDep
from sightline.logs import configure_logging, current_level

router = APIRouter(
    prefix="/v1", tags=["administration"], dependencies=[MayAdminister], responses=problem_responses(401, 403, 422, 429, 503)
)


class SettingsBody(BaseModel):
    """What is in effect, without secrets."""

    store: dict[str, Any] = Field(
        description="as docs/settings.md lists them; the catalogue's password is left out", examples=[{"encoder": "sightline-mini"}]
    )
    service: dict[str, Any] = Field(description="as docs/service.md lists them", examples=[{"max_waiting_requests": 64}])
    log_level: str = Field(examples=["warning"])


class LogLevelBody(Body):
    """How much is logged."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"level": "info"}]})

    level: Literal["debug", "info", "warning", "error"] = Field(description="info logs every request")


@router.get("/settings")
def get_settings(service: ServiceDep) -> SettingsBody:
    """The settings that are in effect, without secrets."""
    of_store = service.sightline.settings.model_dump(mode="json")
    of_store["database_url"] = service.sightline.store.catalogue_url
    return SettingsBody(store=of_store, service=service.settings.model_dump(mode="json"), log_level=current_level())


@router.put("/log-level", responses=problem_responses(400, 413, 507))
def put_log_level(body: LogLevelBody, auditor: AuditorDep) -> LogLevelBody:
    """Log more or less from now on, until the service ends."""
    before = current_level()
    configure_logging(body.level)
    auditor.note("log-level.put", body.level, details={"before": before})
    return body
