"""What Prometheus reads: counters and histograms of requests and of the stages of searches, and gauges of what the store holds.

Each app has a registry of its own, so that two in one process, as in tests, do not add up.
"""

import logging
from collections.abc import Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from search.engine import Timings
from sightline import __version__
from sightline.errors import SightlineError
from sightline.storage.records import CollectionStatistics
from sightline.storage.store import Store

logger = logging.getLogger(__name__)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.08, 0.12, 0.2, 0.35, 0.6, 1.0, 2.5, 10.0)
"""Dense around what a search takes (10 to 120 ms), so that a percentile read from them means something."""


class Metrics:
    """The metrics of one app. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self._requests = Counter("sightline_requests", "Requests that were answered.", ("method", "route", "status"), registry=registry)
        self._seconds = Histogram(
            "sightline_request_seconds", "From a request's head to its answer's end.", ("route",), buckets=_SECONDS, registry=registry
        )
        self._stages = Histogram(
            "sightline_search_stage_seconds", "What each stage of a search took.", ("stage",), buckets=_SECONDS, registry=registry
        )
        self._in_progress = Gauge("sightline_requests_in_progress", "Requests that have begun and not ended.", registry=registry)
        info = Gauge("sightline_info", "1, with the version as a label.", ("version",), registry=registry)
        info.labels(__version__).set(1)
        registry.register(_StoreCollector(store))
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)

    def begin_request(self) -> None:
        """A request begins."""
        self._in_progress.inc()

    def end_request(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """It ends; `route` is the template of its path, of which there are few."""
        self._in_progress.dec()
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def observe_search(self, timings: Timings) -> None:
        """A search was answered. A stage that it had no use for took no time and is left out."""
        by_stage = {
            "embed": timings.embed_ms,
            "retrieve": timings.retrieve_ms,
            "rerank": timings.rerank_ms,
            "metadata": timings.metadata_ms,
            "total": timings.total_ms,
        }
        for stage, milliseconds in by_stage.items():
            if milliseconds:
                self._stages.labels(stage).observe(milliseconds / 1000)

    def text(self) -> bytes:
        """All of it in Prometheus's text format; asks the catalogue for what the store holds."""
        return generate_latest(self.registry)


class _StoreCollector(Collector):
    """What the store holds, asked when it is read."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The names, so that registering it asks the catalogue nothing."""
        return self._families().values()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The numbers; none while the catalogue cannot be asked."""
        families = self._families()
        try:
            for record in self._store.collections():
                self._add(families, record.name, self._store.statistics(record.collection_id))
                families["memory_bytes"].add_metric([record.name], self._store.memory_bytes(record.collection_id))
                families["device_memory_bytes"].add_metric([record.name], self._store.device_memory_bytes(record.collection_id))
        except SightlineError as error:
            logger.warning("the store could not be measured: %s", error)
            return []
        return families.values()

    def _add(self, families: dict[str, GaugeMetricFamily], name: str, statistics: CollectionStatistics) -> None:
        for modality, num_items in statistics.num_items_by_modality.items():
            families["items"].add_metric([name, str(modality)], num_items)
        families["segments"].add_metric([name], statistics.num_segments)
        families["tombstones"].add_metric([name], statistics.num_tombstones)
        families["disk_bytes"].add_metric([name], statistics.size_bytes)

    def _families(self) -> dict[str, GaugeMetricFamily]:
        one = ("collection",)
        return {
            "items": GaugeMetricFamily("sightline_items", "Items that can be found.", labels=("collection", "modality")),
            "segments": GaugeMetricFamily("sightline_segments", "Segments; a compaction merges them.", labels=one),
            "tombstones": GaugeMetricFamily("sightline_tombstones", "Rows of deleted or replaced items.", labels=one),
            "disk_bytes": GaugeMetricFamily("sightline_disk_bytes", "Bytes of the segments on disk.", labels=one),
            "memory_bytes": GaugeMetricFamily("sightline_memory_bytes", "Bytes of rows and indexes in memory.", labels=one),
            "device_memory_bytes": GaugeMetricFamily("sightline_device_memory_bytes", "Bytes of rows on a GPU.", labels=one),
        }
