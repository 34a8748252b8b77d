"""One migration a file; `revision` is a running number, so that the newest is the highest."""
