"""How many threads a call of a numerical library may take in a service."""

import os

THREADS_A_CALL = 1
"""Requests are what the cores are shared among. Were each of them given a team of threads by every library, the teams would wait for each
other spinning: a search over thirty items took 14 ms of processor time on two cores so, and 2.5 without."""


def one_thread_a_call() -> None:
    """Set what torch, FAISS and BLAS read when they are imported, so to be called before; what the environment says already stays."""
    os.environ.setdefault("OMP_NUM_THREADS", str(THREADS_A_CALL))
