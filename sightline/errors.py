"""Every error that Sightline raises on purpose, in one tree.

    SightlineError
    ├── InvalidInput                 the caller asked for something that cannot be
    │   ├── InvalidSetting           a setting or environment variable
    │   ├── InvalidQuery             an empty query, a weight that is no number, ...
    │   ├── InvalidSource            a folder, manifest or shard that cannot be read as one
    │   ├── InvalidTraining          training pairs or options that nothing can be learnt from
    │   ├── InvalidRequest           a body or parameter of the service that cannot be understood
    │   │   ├── RequestTooLarge      more bytes than the service takes
    │   │   └── UnsupportedMediaType declared as something that is not taken
    │   └── UnfetchableUrl           an address that must not or cannot be fetched
    ├── UnreadableImage              one picture that cannot be decoded
    │   └── ImageTooLarge            more pixels than the setting allows
    ├── NotFound
    │   ├── StoreNotFound
    │   ├── CollectionNotFound       with the nearest names
    │   ├── ItemNotFound
    │   ├── PatchesNotFound          an item that nothing is stored of for a second look
    │   ├── KeyNotFound              a key of the service
    │   └── JobNotFound
    ├── Conflict
    │   ├── CollectionExists
    │   ├── EncoderMismatch          the collection was embedded by another encoder
    │   ├── StoreBusy                another process is writing
    │   └── JobConflict              a job that cannot go where it is told to, or a key of idempotency used for another request
    ├── AccessDenied
    │   ├── NotAuthenticated         no key, or one that does not count any more
    │   └── NotPermitted             a key that may not do this
    ├── Overloaded                   more work than can be done in time; try again later
    │   ├── RateLimited              by this key
    │   └── DeadlineExceeded         the request's own deadline
    ├── EncoderUnavailable           a model that is neither on disk nor within reach, or none that does what is asked
    │   └── InvalidCheckpoint        a checkpoint that is damaged or of another version
    └── StorageError
        ├── CorruptSegment           a file that does not match its manifest
        ├── SchemaTooNew             a database written by a newer Sightline
        ├── DatabaseUnavailable      the database cannot be reached
        └── OutOfSpace               the disk is full

A message says what, which value, what was expected, and what to do. `api/exit_codes.py` maps each class to an exit code.
"""

import shlex
from collections.abc import Sequence


class SightlineError(Exception):
    """Root of the tree; `str(error)` is the sentence that a person reads."""


class InvalidInput(SightlineError):
    """The caller asked for something that cannot be."""


class InvalidSetting(InvalidInput):
    """A setting or an environment variable has a value that cannot be used."""


class InvalidQuery(InvalidInput):
    """A query that cannot be answered: empty, or not a number where one is wanted."""


class InvalidSource(InvalidInput):
    """A folder, manifest, shard or text file that cannot be read as a source."""


class InvalidTraining(InvalidInput):
    """Training pairs or options that nothing can be learnt from."""


class InvalidRequest(InvalidInput):
    """A request to the service whose body or parameters cannot be understood."""


class RequestTooLarge(InvalidRequest):
    """A request to the service with more bytes than it takes."""


class UnsupportedMediaType(InvalidRequest):
    """A body, or a picture in it, whose content type is none that is taken there."""


class UnfetchableUrl(InvalidInput):
    """An address that the service must not fetch, or could not."""


class UnreadableImage(SightlineError):
    """One picture that cannot be decoded; batch work skips it and writes it in the ledger."""

    def __init__(self, name: str, *, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


class ImageTooLarge(UnreadableImage):
    """A picture with more pixels than `max_pixels` allows (a decompression bomb, or a poster)."""


class NotFound(SightlineError):
    """Something that was named does not exist."""


class StoreNotFound(NotFound):
    """There is no store in the folder that was named."""


class CollectionNotFound(NotFound):
    """There is no collection of that name; the message offers the nearest names, or says how to make it."""

    def __init__(self, name: str, *, nearest: Sequence[str] = ()) -> None:
        hint = (
            f"did you mean {' or '.join(repr(n) for n in nearest)}?"
            if nearest
            else f"`sightline index FOLDER --collection {shlex.quote(name)}` makes it, `sightline collections` lists those there are"
        )
        super().__init__(f"there is no collection {name!r}; {hint}")
        self.name = name
        self.nearest = tuple(nearest)


class ItemNotFound(NotFound):
    """There is no item with that key in the collection."""


class PatchesNotFound(NotFound):
    """An item has no patches that the fusion encoder could read."""


class KeyNotFound(NotFound):
    """There is no key of the service with that id."""


class JobNotFound(NotFound):
    """There is no job of the service with that id."""


class Conflict(SightlineError):
    """What was asked for does not fit what is there."""


class CollectionExists(Conflict):
    """A collection of that name exists already."""


class EncoderMismatch(Conflict):
    """The collection was embedded by another encoder than the one that asks."""


class StoreBusy(Conflict):
    """Another process holds the writer's lock."""


class JobConflict(Conflict):
    """A job cannot go from its state to the one that is asked for, or a key of idempotency was used for another request."""


class AccessDenied(SightlineError):
    """Who asks may not."""


class NotAuthenticated(AccessDenied):
    """No key was given, or one that is unknown, expired or revoked."""


class NotPermitted(AccessDenied):
    """The key does not allow this."""


class Overloaded(SightlineError):
    """More was asked for than can be done in time; the message says when to try again."""

    retry_after_s: float = 1.0


class RateLimited(Overloaded):
    """This key asked more often than it may."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(Overloaded):
    """The request was not answered before the deadline that it or the service set."""


class EncoderUnavailable(SightlineError):
    """A model that is neither on disk nor within reach, or none that does what is asked, such as to explain."""


class InvalidCheckpoint(EncoderUnavailable):
    """A checkpoint that is damaged, incomplete or of another version."""


class StorageError(SightlineError):
    """The catalogue or a segment cannot be read or written."""


class CorruptSegment(StorageError):
    """A segment's file does not match its manifest."""


class SchemaTooNew(StorageError):
    """The database was written by a newer Sightline."""


class DatabaseUnavailable(StorageError):
    """The database cannot be reached."""


class OutOfSpace(StorageError):
    """The disk is full; what was committed before is intact."""
