"""The golden numbers: known answers of other libraries, and of our own derivation.

They are read from ``../shared/golden`` beside the repository where that exists, else from
``tests/data``, which holds the cases that the tests need. ``python tests/golden.py`` copies those
from the one to the other.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "golden"
DATA = ROOT / "tests" / "data"

# Files, and the beginnings of the names of the cases in them that the tests use ("": all).
USED = {
    "tf_fc_kfac": ("",),
    "tf_fc_diagfactor_embedding": ("",),
    "tf_fc_diag": ("",),
    "tf_conv_kfac": ("",),
    "tf_conv_diag": ("",),
    "tf_fc_multi_indep": ("",),
    "tf_fc_series": ("",),
    "tf_scale_shift": ("",),
    "tf_ema": ("",),
    "tf_utils": ("pi_", "mat2d_", "posdef_", "matpower_", "kron", "patches_"),
    "series_fT_table": ("",),
    "series_forward": ("",),
    "series_degenerate": ("",),
    "kfac_jax_blocks": ("",),
    "curvlinops_kfac": ("kfac_mlp_", "ekfac_mlp_", "kfac_seq_", "kfac_conv_"),
}


@cache
def load(name: str) -> dict[str, dict[str, Any]]:
    """``{case: {array: value}}`` of one file; ``meta`` is a dict. Do not write to the arrays.

    `series_fT_table` has no cases: its arrays are the one case ``""``.
    """
    cases: dict[str, dict[str, Any]] = {}
    for key, value in _arrays(name).items():
        case, _, array = key.rpartition("/")
        if case.startswith(USED[name]):
            cases.setdefault(case, {})[array] = json.loads(str(value)) if array == "meta" else value
    return cases


def _arrays(name: str) -> dict[str, Any]:
    folder = SHARED if SHARED.is_dir() else DATA
    with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


def _copy() -> None:
    for name, beginnings in USED.items():
        with np.load(SHARED / f"{name}.npz", allow_pickle=False) as file:
            kept = {key: file[key] for key in file if key.rpartition("/")[0].startswith(beginnings)}
        np.savez_compressed(DATA / f"{name}.npz", allow_pickle=False, **kept)


if __name__ == "__main__":
    _copy()
