"""What a collective may give."""

import numpy as np
import pytest

from kronops.kfac import GradientLayer


def estimated() -> GradientLayer:
    layer = GradientLayer()
    layer.update(np.array([[3.0, 1.0]]))
    return layer


@pytest.mark.parametrize(
    "reduce",
    [lambda array: 2 * array[:1], lambda array: array.astype(np.float32)],
    ids=["shape", "dtype"],
)
def test_sums_of_another_shape_or_dtype_are_refused(reduce):
    with pytest.raises(ValueError, match="the same of both"):
        estimated().all_reduce(reduce)


@pytest.mark.parametrize("reduce", [lambda array: (2 * array).tolist(), lambda array: 2.0])
def test_what_is_no_array_is_not_taken_for_a_sum_in_place(reduce):
    with pytest.raises(TypeError, match=r"reduce gave a (list|float): the sum as an array"):
        estimated().all_reduce(reduce)
