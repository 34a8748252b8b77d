"""Sightline: a search engine for images and texts; this package holds what every part shares."""

__version__ = "0.1.0"
