"""Kronecker products of a few sizes, and what is computed from their factors."""

from __future__ import annotations

import math

import numpy as np

import kronops

SIZES = {"16^3": (16,) * 3, "8^6": (8,) * 6, "2^16": (2,) * 16, "20,30,40": (20, 30, 40)}


class Products:
    """``K @ X`` for one vector and for 16, and ``X @ K``."""

    params = (list(SIZES), [1, 16], ["float64", "float32"])
    param_names = ("factors", "vectors", "dtype")

    def setup(self, name: str, columns: int, dtype: str) -> None:
        rng = np.random.default_rng(0)
        sizes = SIZES[name]
        self.op = kronops.kron(*[rng.standard_normal((p, p)).astype(dtype) for p in sizes])
        self.x = rng.standard_normal((math.prod(sizes), columns)).astype(dtype)
        self.rows = np.ascontiguousarray(self.x.T)

    def time_columns(self, *_: object) -> None:
        self.op @ self.x

    def time_rows(self, *_: object) -> None:
        self.rows @ self.op

    def peakmem_columns(self, *_: object) -> None:
        self.op @ self.x


class Factored:
    """What starts from new factors."""

    params = (["16^3", "20,30,40"],)
    param_names = ("factors",)

    def setup(self, name: str) -> None:
        rng = np.random.default_rng(0)
        draws = [rng.standard_normal((p, p)) for p in SIZES[name]]
        self.factors = [draw @ draw.T + len(draw) * np.eye(len(draw)) for draw in draws]
        self.x = rng.standard_normal(math.prod(SIZES[name]))

    def time_solve(self, *_: object) -> None:
        kronops.kron(*self.factors).solve(self.x)

    def time_damped_solve(self, *_: object) -> None:
        kronops.kron(*self.factors).damped(0.1).solve(self.x)

    def time_logdet(self, *_: object) -> None:
        kronops.kron(*self.factors).logdet()
