"""Memory that the C library keeps between two products, for fresh memory costs as much as these."""

from __future__ import annotations

import numpy as np

__all__ = ["keep"]

_LARGEST = 2**25  # bytes of a block that the C library may keep, glibc's by default


def keep(count: int) -> None:
    """Make it keep two blocks of ``count`` bytes, where it may, when both have been freed.

    What lies free at the end of the heap goes back to the system where that is more than twice the
    largest block that once came from there. So a block of twice the size is asked for here; it is
    never touched.
    """
    if 2 * count <= _LARGEST:
        np.empty(2 * count, np.uint8)
