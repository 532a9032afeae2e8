"""Pictures of operators: their spectra, their structure, and how solvers converge on them.

Each function draws into the ``ax`` that it is given, or into a new figure of `matplotlib.pyplot`,
and returns the `matplotlib.axes.Axes`; nothing else of matplotlib's state is touched. What is drawn
is computed from the structure, in the operator's own library, and only the numbers on the paper are
brought to NumPy.

This module needs matplotlib (``pip install kronops[plot]``), and kronops does not import it.
"""

try:
    import matplotlib as _matplotlib
except ImportError as error:
    raise ImportError(
        "kronops.plot draws with matplotlib, which is not installed: pip install kronops[plot]"
    ) from error

from kronops.plot.curves import block_spectra, convergence, spectrum
from kronops.plot.trees import structure

__all__ = ["block_spectra", "convergence", "spectrum", "structure"]

del _matplotlib


def __dir__() -> list[str]:
    return __all__
