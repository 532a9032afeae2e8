"""Every kind of layer on every library: moments, merging and operators are those of NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from layer_zoo import ZOO, Case, flat_moments
from libraries import LIBRARIES

from kronops.backends import backend_of
from kronops.backends.standard import Backend

NAMES = (
    "dense, kronecker",
    "uses, diagonal",
    "recurrent, option 2",
    "gradient, full",
    "shared, reduce, kronecker",
    "shared, expand, full",
    "embedding, kronecker, sequence_batch",
    "embedding, diagonal, embedding_batch",
    "scale and shift, full, (True, True)",
    "scale and shift, diagonal, (True, True)",
)
CASES = {name: ZOO[name] for name in NAMES}
every_library = pytest.mark.parametrize("library", LIBRARIES.values(), ids=LIBRARIES)
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def brought(maker: Any, batch: Any) -> list[Any]:
    """Arrays of the library: integers as they are."""
    return [
        maker.place(maker.xp.asarray(x)) if x.dtype.kind == "i" else maker.real(x) for x in batch
    ]


def to_numpy(array: Any) -> Any:
    backend: Backend = backend_of(array)
    return backend.to_numpy(array)


@every_library
@every_case
def test_layers_are_those_of_numpy(library: Any, case: Case) -> None:
    with library.maker(library.dtypes[0]) as maker:
        tolerance = 1e-9 if library.dtypes[0] == "float64" else 2e-4
        plain, theirs = [case.make() for _ in range(2)], [case.make() for _ in range(2)]
        for ours, other in zip(plain, theirs, strict=True):
            batch = case.batch()
            ours.update(*batch)
            other.update(*brought(maker, batch))
        batch = case.batch()
        merged, expected = theirs[0].merge(theirs[1]), plain[0].merge(plain[1])
        if "ekfac" in case.methods:
            merged.update_eigenvalues(*brought(maker, batch))
            expected.update_eigenvalues(*batch)
        for x, y in zip(flat_moments(merged), flat_moments(expected), strict=True):
            assert x.dtype == maker.dtype
            np.testing.assert_allclose(to_numpy(x), y, rtol=tolerance, atol=tolerance)
        for method in case.methods:
            dense = to_numpy(merged.operator(0.5, method).to_dense())
            wanted = expected.operator(0.5, method).to_dense()
            np.testing.assert_allclose(dense, wanted, rtol=tolerance, atol=10 * tolerance)
