"""What a user may choose of how products are carried out, for the calls inside a ``with``."""

from __future__ import annotations

import contextlib
import operator
import os
from collections.abc import Iterator
from contextvars import ContextVar
from typing import NamedTuple

__all__ = ["Settings", "current_settings", "settings", "threads_for"]


class Settings(NamedTuple):
    """``threads``: how many may work at a product; ``compiled``: whether by kernels of kronops.

    ``compiled`` is None where nothing was said: NumPy then uses its kernels, and CuPy does not.
    """

    threads: int
    compiled: bool | None = None


def _threads_of_environment() -> int:
    """As many as BLAS takes: the processors, or what the environment says."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        if os.environ.get(name, "").isdecimal():
            return max(1, int(os.environ[name]))
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_DEFAULT = Settings(_threads_of_environment())
# Some ten milliseconds of one thread. To start others takes a tenth of one, and the threads of BLAS
# wait for more work for up to thirty, on the processors that ours would have.
_WORTH_THREADS = 2**22
_CURRENT: ContextVar[Settings | None] = ContextVar("kronops settings", default=None)


def current_settings() -> Settings:
    """The settings of the call."""
    return _CURRENT.get() or _DEFAULT


def threads_for(numbers: int) -> int:
    """How many threads are worth it for a product with vectors of so many numbers."""
    return current_settings().threads if numbers >= _WORTH_THREADS else 1


@contextlib.contextmanager
def settings(*, threads: int | None = None, compiled: bool | None = None) -> Iterator[Settings]:
    """Choose how products of arrays are carried out, inside a ``with``, in this thread.

    Parameters
    ----------
    threads : int, optional
        How many may work at a product of NumPy arrays, or of PyTorch tensors on the host; by
        default the processors, or what ``OMP_NUM_THREADS`` says. Vectors of less than four million
        numbers are not worth it, and large products of two matrices are left to BLAS, which has
        threads of its own. With more than one, single vectors are multiplied in a form that these
        share, where that is faster.
    compiled : bool, optional
        Whether small factors are applied by compiled kernels. To NumPy arrays, and to PyTorch
        tensors on the host, they are by default where Numba is installed (the extra ``numba``); to
        CuPy arrays, of single and double precision, with True alone: that kernel has not been run
        on a GPU yet. A kernel is compiled when it is first needed, with a line in the log
        ``kronops``, and kept on disk. Results agree to rounding.

    Examples
    --------
    >>> import numpy as np, kronops
    >>> from kronops.backends import settings
    >>> with settings(threads=1):
    ...     y = kronops.kron(np.eye(2), np.ones((2, 2))) @ np.arange(4.0)
    """
    chosen = current_settings()
    if threads is not None:
        if isinstance(threads, bool) or operator.index(threads) < 1:
            raise ValueError(f"threads = {threads!r}: 1 or more would do")
        chosen = chosen._replace(threads=operator.index(threads))
    if compiled is not None:
        if not isinstance(compiled, bool):
            raise TypeError(f"compiled = {compiled!r}: True, False or None would do")
        chosen = chosen._replace(compiled=compiled)
    token = _CURRENT.set(chosen)
    try:
        yield chosen
    finally:
        _CURRENT.reset(token)
