"""The planner, against a table computed by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.storage.index_plan import DEVICE_MIN_ROWS, EXACT_MAX_ROWS, belongs_on_device, num_cells, plan_index


@pytest.mark.parametrize(
    ("num_rows", "dim", "memory_bytes", "factory"),
    [
        (0, 512, 4_000_000_000, None),
        (50_000, 512, 4_000_000_000, None),
        (50_001, 512, 4_000_000_000, "IVF512,SQ8"),
        (1_000_000, 512, 4_000_000_000, "IVF2048,SQ8"),  # 512 MB of codes, 8 MB of numbers, 4 MB of centroids
        (1_000_000, 512, 525_000_000, "IVF2048,SQ8"),
        (1_000_000, 512, 523_000_000, "IVF2048,RaBitQ"),  # 72 + 8 bytes a row
        (1_000_000, 512, 80_000_000, "IVF2048,PQ32np"),
        (10_000_000, 512, 4_000_000_000, "IVF8192,RaBitQ"),
        (60_000, 100, 1_000_000, "IVF512,PQ25np"),
        (60_000, 7, 1, "IVF512,PQ7np"),
    ],
)
def test_the_index_follows_rows_width_and_memory(num_rows: int, dim: int, memory_bytes: int, factory: str | None) -> None:
    plan = plan_index(num_rows, dim, memory_bytes=memory_bytes)
    assert plan.factory == factory
    assert f"{num_rows:,}" in plan.reason


@pytest.mark.parametrize(
    ("num_rows", "dim", "left_bytes", "belongs"),
    [
        (0, 512, 10**12, False),
        (DEVICE_MIN_ROWS - 1, 512, 10**12, False),
        (DEVICE_MIN_ROWS, 512, 10**12, True),
        (DEVICE_MIN_ROWS, 512, 0, False),
        (1_000_000, 512, 1_025_000_000, True),  # two bytes a component, one for the mask
        (1_000_000, 512, 1_024_999_999, False),
        (1_000_000, 528, 1_025_000_000, False),  # with a hubness bias
        (40_000_000, 512, 41_000_000_000, True),  # half of a card with 80 GB
    ],
)
def test_a_gpu_gets_what_is_worth_it_and_fits(num_rows: int, dim: int, left_bytes: int, belongs: bool) -> None:
    assert belongs_on_device(num_rows, dim, left_bytes=left_bytes) is belongs


@given(st.integers(1, 10**8))
def test_cells_are_a_power_of_two_that_can_be_trained(num_rows: int) -> None:
    cells = num_cells(num_rows)
    assert cells & (cells - 1) == 0
    assert cells == 1 or cells * 39 <= num_rows


@given(st.integers(EXACT_MAX_ROWS + 1, 10**7), st.integers(1, 2048), st.integers(1, 10**10), st.integers(1, 10**10))
def test_more_memory_never_gives_a_coarser_index(num_rows: int, dim: int, one_bytes: int, other_bytes: int) -> None:
    less = plan_index(num_rows, dim, memory_bytes=min(one_bytes, other_bytes))
    more = plan_index(num_rows, dim, memory_bytes=max(one_bytes, other_bytes))
    assert more.refine_factor <= less.refine_factor
