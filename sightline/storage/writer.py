"""The one writer of a store: each commit is files first, synced, and then one transaction that makes them live.

A kill before the transaction leaves files and an announcement (`building`) that the next writer sweeps; a kill after it leaves retired files to sweep.
"""

import logging
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sqlalchemy import Connection

from sightline.errors import InvalidInput, OutOfSpace, StorageError
from sightline.storage import catalogue_writes as writes
from sightline.storage.catalogue import Catalogue
from sightline.storage.catalogue_writes import PlacedItem
from sightline.storage.compaction import IndexOptions, TuningQueries, merge_segments, stored_queries, worth_merging
from sightline.storage.database import Database
from sightline.storage.records import (
    CollectionRecord,
    CompactionReport,
    LedgerEntry,
    Move,
    NewItem,
    RunCounts,
    RunState,
    SegmentRecord,
    SegmentState,
    Touch,
)
from sightline.storage.segment import Manifest, SegmentBuilder, remove_segment
from sightline.storage.snapshot import LiveSegment, Snapshot
from sightline.types import CollectionId, Embeddings, ItemId, Modality, RunId, SegmentId
