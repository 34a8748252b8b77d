"""The catalogue's history, one file a change; the same files build SQLite and PostgreSQL."""
