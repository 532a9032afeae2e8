"""What a collective may give."""

import numpy as np
import pytest

from kronops.kfac import GradientLayer


@pytest.mark.parametrize(
    "reduce",
    [lambda array: 2 * array[:1], lambda array: array.astype(np.float32)],
    ids=["shape", "dtype"],
)
def test_sums_of_another_shape_or_dtype_are_refused(reduce):
    layer = GradientLayer()
    layer.update(np.array([[3.0, 1.0]]))
    with pytest.raises(ValueError, match="the same of both"):
        layer.all_reduce(reduce)
