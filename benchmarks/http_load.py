"""Closed-loop clients over raw sockets: each asks, waits for the answer, and asks again on the same connection. Loopback only."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

HOST = "127.0.0.1"
_PAUSE_AFTER_429_S = 0.25
"""Shorter than Retry-After asks for, so that the overload stays one."""


@dataclass(slots=True)
class Load:
    """What the clients saw."""

    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)  # of answers with 200
    on_top_ms: list[float] = field(default_factory=list)  # of each less what it says that the engine took, metadata not counted as its
    num_by_status: dict[int, int] = field(default_factory=dict)

    @property
    def per_second(self) -> float:
        """Answers with 200."""
        return len(self.latencies_ms) / self.seconds

    def percentile_ms(self, percentile: float) -> float:
        """Of the answers with 200; NaN where there were none."""
        return float(np.percentile(self.latencies_ms, percentile)) if self.latencies_ms else float("nan")


@dataclass(frozen=True, slots=True)
class Asked:
    """Requests that clients make in turn."""

    path: str
    bodies: Sequence[bytes]


def run_clients(port: int, asked: Asked, *, num_clients: int, seconds: float) -> Load:
    """So many clients for so long; an answer that is on its way then still counts."""
    return asyncio.run(_run(port, asked, num_clients=num_clients, seconds=seconds))


async def _run(port: int, asked: Asked, *, num_clients: int, seconds: float) -> Load:
    load = Load()
    numbers = iter(range(1 << 62))
    started = time.perf_counter()

    def body() -> bytes | None:
        return asked.bodies[next(numbers) % len(asked.bodies)] if time.perf_counter() - started < seconds else None

    await asyncio.gather(*(_client(port, asked.path, body, load) for _ in range(num_clients)))
    load.seconds = time.perf_counter() - started
    return load


async def _client(port: int, path: str, next_body: Callable[[], bytes | None], load: Load) -> None:
    reader, writer = await asyncio.open_connection(HOST, port)
    while (body := next_body()) is not None:
        started = time.perf_counter()
        writer.write(_request(path, body))
        status, body = await _response(reader)
        elapsed_ms = 1000 * (time.perf_counter() - started)
        load.num_by_status[status] = load.num_by_status.get(status, 0) + 1
        if status == 200:
            timings = json.loads(body)["timings"]
            load.latencies_ms.append(elapsed_ms)
            load.on_top_ms.append(elapsed_ms - timings["total_ms"] + timings["metadata_ms"])
        elif status == 429:
            await asyncio.sleep(_PAUSE_AFTER_429_S)
    writer.close()
    await writer.wait_closed()


def _request(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def _response(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    length = next(int(line.partition(":")[2]) for line in lines if line.lower().startswith("content-length:"))
    return int(lines[0].split(" ")[1]), await reader.readexactly(length)
