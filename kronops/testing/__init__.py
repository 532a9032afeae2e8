"""The laws that every operator keeps, for authors of operators: `check_operator`.

Each law is a function of a `Case`, an operator with its own dense matrix as the model. `LAWS` lists
them in order; tests may run them one by one.
"""

from kronops.testing.case import Case
from kronops.testing.suite import LAWS, check_operator

__all__ = ["LAWS", "Case", "check_operator"]


def __dir__() -> list[str]:
    return __all__
