"""The exit code of every error class: one table, which `docs/exit-codes.md` prints and a test holds complete.

Tens are families, so that a script may ask for `40 <= code < 50` (something is in the way) as well as for one code.
"""

from enum import IntEnum

from sightline import errors


class ExitCode(IntEnum):
    """Codes that no error class stands for."""

    OK = 0
    DAMAGE_FOUND = 1  # `sightline verify` found what it looks for
    USAGE = 2  # an unknown option, a missing argument: typer's own code
    UNEXPECTED = 70  # a bug; EX_SOFTWARE of sysexits.h
    INTERRUPTED = 130  # Ctrl-C: 128 + SIGINT
    BROKEN_PIPE = 141  # the reader of a pipe went away: 128 + SIGPIPE


EXIT_CODE_BY_ERROR: dict[type[errors.SightlineError], int] = {
    errors.SightlineError: 9,
    errors.InvalidInput: 10,
    errors.InvalidSetting: 11,
    errors.InvalidQuery: 12,
    errors.InvalidSource: 13,
    errors.InvalidTraining: 14,
    errors.InvalidRequest: 15,
    errors.RequestTooLarge: 16,
    errors.UnfetchableUrl: 17,
    errors.UnsupportedMediaType: 18,
    errors.UnreadableImage: 20,
    errors.ImageTooLarge: 21,
    errors.NotFound: 30,
    errors.StoreNotFound: 31,
    errors.CollectionNotFound: 32,
    errors.ItemNotFound: 33,
    errors.PatchesNotFound: 34,
    errors.KeyNotFound: 35,
    errors.JobNotFound: 36,
    errors.Conflict: 40,
    errors.CollectionExists: 41,
    errors.EncoderMismatch: 42,
    errors.StoreBusy: 43,
    errors.JobConflict: 44,
    errors.EncoderUnavailable: 50,
    errors.InvalidCheckpoint: 51,
    errors.StorageError: 60,
    errors.CorruptSegment: 61,
    errors.SchemaTooNew: 62,
    errors.DatabaseUnavailable: 63,
    errors.OutOfSpace: 64,
    errors.AccessDenied: 80,
    errors.NotAuthenticated: 81,
    errors.NotPermitted: 82,
    errors.Overloaded: 90,
    errors.RateLimited: 91,
    errors.DeadlineExceeded: 92,
}


def exit_code_of(error: errors.SightlineError) -> int:
    """The code of the error's class, or of its nearest base in the table."""
    return next(EXIT_CODE_BY_ERROR[base] for base in type(error).__mro__ if base in EXIT_CODE_BY_ERROR)
