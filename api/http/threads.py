"""How the threads of a service share the cores and the interpreter."""

import gc
import os
import sys

THREADS_A_CALL = 1
"""Requests are what the cores are shared among. Were each of them given a team of threads by every library, the teams would wait for each
other spinning: a search over thirty items took 14 ms of processor time on two cores so, and 2.5 without."""


MAX_LEADERS = 2
"""Batches of searches that are answered at the same time. A batch has one thread: with one at a time, sixteen clients had 228 answers a
second on two cores, and 297 with two. More were not measured."""

SWITCH_INTERVAL_S = 0.0005
"""How long a thread may compute in Python while others wait to. A pass of a network gives the interpreter's lock away at each of its two
hundred operations and has to get it back; at Python's own 5 ms, sixteen clients got 103 answers a second, and 141 so (one run each)."""


def leaders_at_once() -> int:
    """As many as there are cores, and at most `MAX_LEADERS`."""
    return min(MAX_LEADERS, os.cpu_count() or 1)


def take_turns_quickly() -> None:
    """Have threads that wait for the interpreter wait less. Of the whole process, so for who owns it."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)


def one_thread_a_call() -> None:
    """Set what torch, FAISS and BLAS read when they are imported, so to be called before; what the environment says already stays."""
    os.environ.setdefault("OMP_NUM_THREADS", str(THREADS_A_CALL))


def leave_long_lived_objects_alone() -> None:
    """Have the collector of cycles pass over all that is there by now. Of the whole process, so for who owns it.

    Networks and the libraries that they come from are half a million objects, which every full collection walked while all requests waited.
    """
    gc.collect()
    gc.freeze()
