"""What the OpenAPI document says is true: of every operation, requests that fit it and requests that do not get an answer that it names.

The real app over a real store is asked, with a key that may do everything. Requests are made from the document alone and from a fixed seed,
so that a failure comes again. Half of those about a collection are about the one that there is.
"""

import itertools
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
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
def schema(fused: Sightline) -> Iterator[Any]:
    service = Service(fused, load_service_settings())
    app = create_app(service)
    yield schemathesis.openapi.from_asgi("/openapi.json", app)
    service.decoder.close()


@pytest.fixture
def key(fused: Sightline) -> str:
    secret, _ = fused.store.keys.create(NewKey("fuzz", scopes=frozenset({Scope.ADMIN})))
    return secret


@pytest.mark.slow
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_every_answer_is_one_that_the_document_names(schema: Any, key: str, mode: GenerationMode) -> None:
    failures = []
    num_operations = 0
    succeeded = set()
    for operation in sorted(
        (result.ok() for result in schema.get_all_operations()), key=lambda each: LAST.index(each.method) if each.method in LAST else -1
    ):
        num_operations += 1
        try:
            statuses = ask(operation, mode=mode, key=key)
        except Unsatisfiable:  # it takes nothing that could be wrong
            continue
        except Exception as error:  # noqa: BLE001  all operations are to be told of
            failures.append(f"{operation.label}: {error}")
            continue
        if min(statuses) < 300:
            succeeded.add(operation.label)
    assert not failures, "\n\n".join(failures)
    if mode is GenerationMode.POSITIVE:  # else nothing but refusals was looked at
        assert len(succeeded) > num_operations / 2, f"{num_operations}: {' | '.join(sorted(succeeded))}"


def ask(operation: Any, *, mode: GenerationMode, key: str) -> list[int]:
    """The statuses of the answers to some requests; raises what a check finds wrong with one."""
    counter = itertools.count()
    statuses = []

    @settings(
        max_examples=NUM_EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def asked(case: Any) -> None:
        if next(counter) % 2 and "collection" in (case.path_parameters or {}) and operation.method != "delete":
            case.path_parameters["collection"] = "default"
        for name in ("item_id", "key_id", "run_id"):
            if next(counter) % 2 and name in (case.path_parameters or {}) and operation.method == "get":
                case.path_parameters[name] = 1
        if operation.path.endswith("/events"):  # those of a job that waits have no end
            case.path_parameters["job_id"] = NOTHING
        if operation.method == "delete" and "key_id" in (case.path_parameters or {}):  # the key itself is needed on
            case.path_parameters["key_id"] = NOTHING
        response = case.call_and_validate(headers={"Authorization": f"Bearer {key}"}, checks=CHECKS)
        statuses.append(response.status_code)

    asked()
    return statuses
