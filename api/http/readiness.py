"""Whether the service can do its work: the catalogue is there and up to date, and every model that its collections need."""

import logging

from api.http.problems import kind_of
from api.http.service import Service
from sightline.errors import EncoderMismatch, SightlineError

logger = logging.getLogger(__name__)


def shortcomings(service: Service) -> list[str]:
    """What is missing, in words that give nothing away to whoever asks; the log says more. Empty when all is well.

    A collection whose encoder has other weights by now is not among them: nothing that watches this could mend it, and others are searched.
    """
    if service.stopping.is_set():
        return ["the service is being stopped"]
    try:
        service.sightline.store.require_catalogue()
        if not service.warming.is_over:
            return ["collections are being warmed up"]
        _require_models(service)
    except SightlineError as error:
        logger.warning("not ready: %s", error)
        return [_WORDS.get(kind_of(error), f"{kind_of(error)}; the log says more")]
    return []


_WORDS = {
    "DatabaseUnavailable": "the catalogue cannot be reached",
    "StorageError": "the catalogue cannot be used; a migration may be pending",
    "EncoderUnavailable": "a model is missing",
    "InvalidCheckpoint": "a model is damaged",
}


def _require_models(service: Service) -> None:
    """Raises `EncoderUnavailable`; what is in memory already costs a look."""
    encoders = service.sightline.encoders
    records = service.sightline.collections()
    if not records:
        encoders.for_new_collection()
    for record in records:
        try:
            encoders.for_collection(record)
            encoders.matcher_for(record)
        except EncoderMismatch:
            continue
