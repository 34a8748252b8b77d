"""What the process of a job is given, from its row and from what the service was started with."""

from api.http.jobs.specs import Order, spec_of
from api.http.settings import ServiceSettings
from api.library import Sightline
from sightline.storage.jobs import JobRecord


def order_of(job: JobRecord, *, sightline: Sightline, settings: ServiceSettings) -> Order:
    """The order for a process that does the job."""
    return Order(
        store=sightline.store.folder,
        settings=sightline.settings.model_dump(mode="json"),
        encoder=sightline.encoders.chosen_name,
        source_roots=settings.source_roots,
        max_pixels=settings.max_pixels,
        spec=spec_of(job),
    )
