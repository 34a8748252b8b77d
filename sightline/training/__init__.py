"""Fitting networks: pairs, losses and loops."""
