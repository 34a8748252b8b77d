"""The basis that cached image tokens are reduced by."""

import numpy as np
from numpy.typing import NDArray

from sightline.training.token_cache import principal_components

TOKEN_DIM = 400


def rows_of_uneven_variance() -> NDArray[np.float32]:
    """(2000, TOKEN_DIM): directions whose variance falls slowly, in a random frame, as that of image tokens does."""
    generator = np.random.default_rng(0)
    frame, _ = np.linalg.qr(generator.normal(size=(TOKEN_DIM, TOKEN_DIM)))
    return np.asarray((generator.normal(size=(2000, TOKEN_DIM)) * np.logspace(0, -1.5, TOKEN_DIM)) @ frame.T + 3, dtype=np.float32)


def test_few_components_hold_as_much_variance_as_the_best_do() -> None:
    rows = rows_of_uneven_variance()

    basis = principal_components(rows, num_components=40)

    standardised = (rows - basis.mean) / basis.std
    best = np.linalg.eigvalsh(np.cov(standardised, rowvar=False, bias=True))[-40:][::-1]
    held = (standardised @ basis.components).var(axis=0)
    assert held.sum() >= 0.999 * best.sum()
    assert (np.diff(held) <= 1e-3 * held[0]).all(), "the strongest come first"
    np.testing.assert_allclose(basis.components.T @ basis.components, np.eye(40), atol=1e-4)  # float32, four steps of it


def test_all_components_lose_nothing() -> None:
    rows = rows_of_uneven_variance()

    basis = principal_components(rows, num_components=TOKEN_DIM)

    standardised = (rows - basis.mean) / basis.std
    np.testing.assert_allclose(standardised @ basis.components @ basis.components.T, standardised, atol=1e-3)


def test_equal_rows_have_an_equal_basis() -> None:
    once, again = (principal_components(rows_of_uneven_variance(), num_components=40) for _ in range(2))

    np.testing.assert_array_equal(once.components, again.components)
