"""Backends: how they are found, what a third party may add, and what the standard alone gives."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

import array_api_strict
import numpy as np
import pytest

import kronops
from kronops.backends import Backend, backend_named, backend_of, is_array, register_backend

ROOT = Path(__file__).resolve().parent.parent
INSTALLED = [name for name in ("cupy", "dask", "jax", "torch") if find_spec(name)]


def fresh(code: str, *paths: Path) -> str:
    """What ``code`` prints in an interpreter of its own, with more places to import from."""
    path = os.pathsep.join([str(ROOT), *map(str, paths)])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestThirdParty:
    MODULE = """
        from kronops.backends import Backend

        class TinyBackend(Backend):
            calls = []

            def cholesky(self, matrix):
                self.calls.append(tuple(matrix.shape))
                return super().cholesky(matrix)
        """

    @pytest.fixture
    def site(self, tmp_path):
        """A folder with a distribution in it, as an installer leaves it."""
        (tmp_path / "tiny_backend.py").write_text(textwrap.dedent(self.MODULE), encoding="utf-8")
        info = tmp_path / "tiny_backend-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-backend\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            "[kronops.backends]\narray_api_strict = tiny_backend:TinyBackend\n"
        )
        return tmp_path

    def test_an_entry_point_is_found_and_used(self, site):
        code = """
            import sys, array_api_strict as xp, kronops
            assert "tiny_backend" not in sys.modules
            a = xp.asarray([[2.0, 1.0], [1.0, 3.0]])
            op = kronops.kron(a, a)
            op.solve(xp.ones(4))
            print(op.backend, sys.modules["tiny_backend"].TinyBackend.calls)
            """
        assert fresh(code, site).strip() == "TinyBackend('array_api_strict') [(2, 2), (2, 2)]"

    def test_without_it_the_standard_serves(self):
        code = """
            import array_api_strict as xp, kronops
            a = xp.asarray([[2.0, 1.0], [1.0, 3.0]])
            print(kronops.kron(a, a).backend)
            """
        assert fresh(code).strip() == "Backend('array_api_strict')"

    def test_its_suite_passes_too(self, site):
        code = """
            import array_api_strict as xp, kronops
            from kronops.testing import check_operator
            a = xp.asarray([[2.0, 1.0], [1.0, 3.0]])
            check_operator(kronops.kron(a, a).damped(0.5))
            """
        assert fresh(code, site) == ""

    def test_register_backend_names_a_place(self, site):
        code = """
            import array_api_strict as xp, kronops
            from kronops.backends import backend_of, register_backend
            a = xp.asarray([[2.0, 1.0], [1.0, 3.0]])
            print(backend_of(a))
            register_backend("array_api_strict", "tiny_backend:TinyBackend")
            print(backend_of(a))
            """
        (site / "tiny_backend-1.0.dist-info" / "entry_points.txt").unlink()
        assert fresh(code, site).split() == [
            "Backend('array_api_strict')",
            "TinyBackend('array_api_strict')",
        ]


class TestNothingIsImported:
    @pytest.mark.skipif(not INSTALLED, reason="none of cupy, dask, jax, torch is installed")
    def test_by_work_on_numpy_arrays(self):
        code = """
            import sys, pickle, numpy as np, scipy.sparse.linalg, kronops, kronops.kfac
            from kronops.testing import check_operator
            a = np.asarray([[2.0, 1.0], [1.0, 3.0]])
            op = kronops.kron(a, a)
            check_operator(op.damped(0.1))
            scipy.sparse.linalg.cg(op, np.ones(4), M=op.inverse())
            kronops.kfac.DenseLayer().update(a, a)
            op.to_backend("numpy").sample(np.random.default_rng(0))
            print(*sys.modules)
            """
        roots = {name.partition(".")[0] for name in fresh(code).split()}
        assert not roots & {"cupy", "dask", "jax", "jaxlib", "torch", "array_api_strict"}

    def test_a_library_is_loaded_by_its_first_array_alone(self):
        code = """
            import sys, array_api_strict as xp, kronops
            print("kronops.backends.numpy" in sys.modules)
            kronops.kron(xp.eye(2))
            print("kronops.backends.torch" in sys.modules, "kronops.backends.jax" in sys.modules)
            """
        assert fresh(code).split()[1:] == ["False", "False"]


class TestFinding:
    def test_a_library_by_name(self):
        assert backend_named("numpy") is backend_of(np.zeros(1))
        assert backend_named("array_api_strict") is backend_of(array_api_strict.zeros(1))

    @pytest.mark.parametrize("name", ["nump", "os", ""])
    def test_an_unknown_name_is_an_error_that_says_it(self, name):
        with pytest.raises(ValueError, match=f"{name!r}"):
            backend_named(name)

    def test_what_is_no_array(self):
        for value in (1.0, [1.0], "a", None, np.dtype("f8"), kronops.kron):
            assert not is_array(value)

    def test_two_libraries_are_a_type_error_that_names_both(self):
        with pytest.raises(TypeError, match=r"numpy.*array_api_strict"):
            backend_of(np.zeros(1), array_api_strict.zeros(1))

    def test_registering_anew_replaces(self):
        register_backend("numpy", "kronops.backends.numpy:NumpyBackend")
        assert type(backend_of(np.zeros(1))).__name__ == "NumpyBackend"


class TestStandardAlone:
    """What `Backend` itself answers, against NumPy."""

    backend = Backend("array_api_strict", array_api_strict)

    def arrays(self):
        rng = np.random.default_rng(0)
        a, b = rng.standard_normal((2, 4, 4))
        return a @ a.T + np.eye(4), b

    def test_factorisations(self):
        definite, b = self.arrays()
        general = definite + np.triu(b)
        xp = array_api_strict
        lower = self.backend.cholesky(xp.asarray(definite))
        host = np.asarray(lower)
        np.testing.assert_allclose(host @ host.T, definite)
        solved = self.backend.cholesky_solve(lower, xp.asarray(b))
        np.testing.assert_allclose(np.asarray(solved), np.linalg.solve(definite, b))
        factors = self.backend.lu(xp.asarray(general))
        for adjoint, matrix in ((False, general), (True, general.T)):
            solved = self.backend.lu_solve(factors, xp.asarray(b), adjoint=adjoint)
            np.testing.assert_allclose(np.asarray(solved), np.linalg.solve(matrix, b))
        sign, logabsdet = self.backend.lu_slogdet(factors)
        np.testing.assert_allclose([sign, logabsdet], np.linalg.slogdet(general))
        triangle, basis = map(np.asarray, self.backend.schur(xp.asarray(general)))
        np.testing.assert_allclose(basis @ triangle @ basis.conj().T, general, atol=1e-12)

    def test_a_failed_cholesky_is_a_linalgerror(self):
        with pytest.raises(kronops.LinAlgError, match="positive definite"):
            self.backend.cholesky(array_api_strict.asarray([[1.0, 2.0], [2.0, 1.0]]))

    def test_singular_is_a_linalgerror(self):
        factors = self.backend.lu(array_api_strict.zeros((2, 2)))
        with pytest.raises(kronops.LinAlgError, match="singular"):
            self.backend.lu_solve(factors, array_api_strict.ones((2, 1)))
