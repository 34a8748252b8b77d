"""The service: the same engine over HTTP, for programs, for an administrator, and as a page for people."""
