"""What is written in one turn of the event loop is sent as one piece, in its order, and nothing is lost at the end."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from api.http.joined_writes import MAX_HELD_BYTES, JoinedWrites


class Recorded:
    """A transport that notes what is done to it."""

    def __init__(self) -> None:
        self.done: list[Any] = []

    def write(self, data: bytes) -> None:
        """Notes it."""
        self.done.append(data)

    def write_eof(self) -> None:
        """Notes it."""
        self.done.append("eof")

    def close(self) -> None:
        """Notes it."""
        self.done.append("closed")

    def is_closing(self) -> bool:
        """As a transport tells it."""
        return "closed" in self.done

    def get_extra_info(self, name: str) -> str:
        """Something that only the transport knows."""
        return f"the {name}"


def after(turns: Callable[[JoinedWrites], None], *, num_turns: int = 1) -> list[Any]:
    """What was done to the transport once the writes of so many turns are over."""
    recorded = Recorded()

    async def run() -> None:
        joined = JoinedWrites(cast("asyncio.Transport", recorded), asyncio.get_running_loop())
        for _ in range(num_turns):
            turns(joined)
            await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(run())
    return recorded.done


def head_and_body(joined: JoinedWrites) -> None:
    joined.write(b"head")
    joined.write(b"body")


def test_a_turn_is_one_piece() -> None:
    assert after(head_and_body) == [b"headbody"]


def test_turns_are_pieces_of_their_own() -> None:
    assert after(head_and_body, num_turns=3) == [b"headbody"] * 3


@pytest.mark.parametrize(("end", "said"), [("close", "closed"), ("write_eof", "eof")])
def test_an_end_comes_after_what_was_written(end: str, said: str) -> None:
    def written_and_ended(joined: JoinedWrites) -> None:
        head_and_body(joined)
        getattr(joined, end)()

    assert after(written_and_ended) == [b"headbody", said]


def test_what_is_much_is_not_held() -> None:
    piece = b"x" * (MAX_HELD_BYTES // 2)

    def three_pieces(joined: JoinedWrites) -> None:
        for _ in range(3):
            joined.write(piece)
        assert joined._num_held_bytes <= MAX_HELD_BYTES

    assert b"".join(after(three_pieces)) == piece * 3
    assert len(after(three_pieces)) == 1  # the third is more than may be held, and goes with the others


def test_nothing_is_written_to_what_was_closed_meanwhile() -> None:
    def closed_by_another(joined: JoinedWrites) -> None:
        joined.write(b"late")
        joined._transport.close()

    assert after(closed_by_another) == ["closed"]


def test_the_rest_is_the_transport_s() -> None:
    joined = JoinedWrites(cast("asyncio.Transport", Recorded()), asyncio.new_event_loop())
    assert joined.get_extra_info("peername") == "the peername"
    joined._loop.close()
