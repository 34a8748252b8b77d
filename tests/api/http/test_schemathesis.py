"""What the OpenAPI document says is true: of every operation, requests that fit it and requests that do not get an answer that it names.

The real app over a real store is asked, with a key that may do everything. Requests are made from the document alone and from a fixed
seed, so that a failure comes again. As many again are fitted to what the store holds (`fitting`): by themselves they would name what there
is not, and nothing but refusals would be looked at. Every operation has to succeed with some of them.
"""

import logging
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from api import Sightline
from api.http.app import create_app
from api.http.service import Service
from api.http.settings import load_service_settings
from sightline.logs import LOGGER_ROOTS
from sightline.storage.keys import NewKey
from sightline.types import Scope
from tests.api.http.fitting import Fitting

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
NUM_EXAMPLES = 8
NOTHING = 2**40  # has this id
LAST = ("patch", "delete")
"""Methods after all others, in this order: a collection that is renamed or deleted is there under its name for nobody else."""


@pytest.fixture(autouse=True)
def _log_level_as_before() -> Iterator[None]:
    """One of the operations sets it, for the whole process."""
    loggers = [logging.getLogger(root) for root in LOGGER_ROOTS]
    before = [(logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers = handlers


@pytest.fixture
def fitting(fused: Sightline) -> Fitting:
    """Of the store that is asked."""
    return Fitting(fused)


@pytest.fixture
def schema(fitting: Fitting) -> Iterator[Any]:
    service = Service(fitting.sightline, load_service_settings())
    app = create_app(service)
    yield schemathesis.openapi.from_asgi("/openapi.json", app)
    service.decoder.close()


@pytest.fixture
def key(fused: Sightline) -> str:
    secret, _ = fused.store.keys.create(NewKey("fuzz", scopes=frozenset({Scope.ADMIN})))
    return secret


def operations(schema: Any) -> list[Any]:
    """All of them, those that take away what others ask about last."""
    found = (result.ok() for result in schema.get_all_operations())
    return sorted(found, key=lambda each: LAST.index(each.method) if each.method in LAST else -1)


@pytest.mark.slow
def test_every_answer_to_what_fits_is_one_that_the_document_names_and_some_succeed(schema: Any, key: str, fitting: Fitting) -> None:
    failures, statuses_by_label = [], {}
    for operation in operations(schema):
        strategy = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
        try:
            ask(strategy, key=key, fit=spare_what_is_needed)
            statuses_by_label[operation.label] = ask(strategy, key=key, fit=lambda case: fitting.fit(case, keeps_rest=False))
        except Exception as error:  # noqa: BLE001  all operations are to be told of
            failures.append(f"{operation.label}: {error}")
    assert not failures, "\n\n".join(failures)
    refused = {label: [int(each) for each in statuses] for label, statuses in statuses_by_label.items() if min(statuses) >= 300}
    assert refused == {}, "nothing but refusals was looked at"


@pytest.mark.slow
def test_every_answer_to_what_does_not_fit_is_one_that_the_document_names(schema: Any, key: str, fitting: Fitting) -> None:
    failures = []
    for operation in operations(schema):
        strategy = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
        try:
            ask(strategy, key=key, fit=spare_what_is_needed)
            ask(strategy, key=key, fit=lambda case: fitting.fit(case, keeps_rest=True))
        except Unsatisfiable:  # it takes nothing that could be wrong
            continue
        except Exception as error:  # noqa: BLE001
            failures.append(f"{operation.label}: {error}")
    assert not failures, "\n\n".join(failures)


def spare_what_is_needed(case: Any) -> None:
    """What others of these requests ask about, the key above all, must not be named by accident; events of a job that waits have no end."""
    if case.method.lower() == "delete" and "key_id" in (case.path_parameters or {}):
        case.path_parameters["key_id"] = NOTHING
    if case.path.endswith("/events"):
        case.path_parameters["job_id"] = NOTHING


def ask(strategy: SearchStrategy[Any], *, key: str, fit: Any) -> list[int]:
    """The statuses of the answers to some requests; raises what a check finds wrong with one."""
    statuses = []

    @settings(
        max_examples=NUM_EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def asked(case: Any) -> None:
        fit(case)
        response = case.call_and_validate(headers={"Authorization": f"Bearer {key}"}, checks=CHECKS)
        statuses.append(worst_status(case, response))

    asked()
    return statuses


def worst_status(case: Any, response: Any) -> int:
    """Of the answer and of what it holds, where each part has a status of its own: a batch is 200 whatever becomes of its searches."""
    found = [int(response.status_code)]
    if response.status_code == HTTPStatus.OK and case.path == "/v1/search/batch":
        found += [answer["status"] for answer in response.json()["answers"]]
    if response.status_code == HTTPStatus.OK and case.path.endswith("/items") and case.method.lower() == "post":
        found += [int(HTTPStatus.UNPROCESSABLE_ENTITY) for _ in range(response.json()["num_failed"])]
    return max(found)
