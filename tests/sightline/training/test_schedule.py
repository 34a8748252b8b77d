"""The learning rate's cycle."""

import pytest

from sightline.training.schedule import cosine_cycle


@pytest.mark.parametrize("total", [1, 2, 9, 10, 100, 1234])
def test_it_rises_to_one_falls_and_never_reaches_zero(total: int) -> None:
    factors = [cosine_cycle(position, total) for position in range(total)]
    top = factors.index(max(factors))

    assert max(factors) == 1.0
    assert min(factors) > 0
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)


def test_by_hand() -> None:
    assert [cosine_cycle(position, 20) for position in (0, 1, 2, 11)] == pytest.approx([0.5, 1.0, 1.0, 0.5])
