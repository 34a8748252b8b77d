"""Networks, and what feeds them pixels and tokens."""
