"""Items that are sent: from the bytes of a request to files and entries on disk, and from there into a collection."""
