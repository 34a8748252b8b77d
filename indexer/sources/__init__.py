"""Where items come from: folders, manifests, WebDataset shards and text corpora, behind one interface."""

from indexer.sources.opening import SourceKind, open_source
from indexer.sources.source import BrokenInput, ByteRange, Hidden, PassedOver, Scanned, Source, SourceItem

__all__ = ["BrokenInput", "ByteRange", "Hidden", "PassedOver", "Scanned", "Source", "SourceItem", "SourceKind", "open_source"]
