"""What the process of a job is given, from its row and from what the service was started with, and what is taken away after it."""

from api.http.decoding import DecodingLimits
from api.http.fetching import FetchLimits
from api.http.jobs.specs import Order, UploadSpec, spec_of
from api.http.settings import ServiceSettings
from api.http.uploads.batches import remove_batch
from api.library import Sightline
from sightline.storage.jobs import JobRecord
from sightline.storage.store import Store


def order_of(job: JobRecord, *, sightline: Sightline, settings: ServiceSettings) -> Order:
    """The order for a process that does the job."""
    return Order(
        store=sightline.store.folder,
        settings=sightline.settings.model_dump(mode="json"),
        encoder=sightline.encoders.chosen_name,
        source_roots=settings.source_roots,
        decoding=decoding_limits(settings),
        max_picture_bytes=settings.max_body_bytes,
        fetching=fetch_limits(settings),
        spec=spec_of(job),
    )


def remove_what_it_needed(job: JobRecord, *, store: Store) -> None:
    """What was sent, where the job was to index it; for a job that is done."""
    spec = spec_of(job)
    if isinstance(spec, UploadSpec):
        remove_batch(store, spec.batch)


def decoding_limits(settings: ServiceSettings) -> DecodingLimits:
    """What a picture that is sent may take."""
    return DecodingLimits(settings.max_pixels, settings.decode_memory_bytes, settings.decode_timeout_s)


def fetch_limits(settings: ServiceSettings) -> FetchLimits | None:
    """What may be fetched; None where nothing may."""
    if not settings.fetch_urls:
        return None
    return FetchLimits(max_bytes=settings.fetch_max_bytes, timeout_s=settings.fetch_timeout_s, networks=settings.fetch_networks)
