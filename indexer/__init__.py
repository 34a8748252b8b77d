"""From files to searchable: sources, what of them is new, decoding and embedding, and keeping the catalogue in step."""
