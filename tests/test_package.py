"""The package from outside: what importing costs, what is exported, who may import whom."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import kronops
import kronops.kfac
import kronops.linalg
import kronops.testing

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "kronops"

# The floors, from the bottom. A name stands for a module and everything in it; of several that
# fit the longest counts. A module imports from floors below, and from its own entry, alone.
FLOORS = (
    ("kronops.drawing", "kronops.errors", "kronops.planning", "kronops.sharding"),
    ("kronops.backends",),
    ("kronops.checks",),
    (
        "kronops.explaining",
        "kronops.indexing",
        "kronops.normals",
        "kronops.scalars",
        "kronops.scaling",
        "kronops.tree",
        "kronops.vectors",
    ),
    ("kronops.caching",),
    (
        "kronops.columns",
        "kronops.damping",
        "kronops.factorisation",
    ),
    (
        "kronops.factor_products",
        "kronops.lazy_parts",
        "kronops.linear_system",
        "kronops.refinement",
        "kronops.rendering",
    ),
    ("kronops.series_sums", "kronops.spectrum"),
    ("kronops.operator",),
    ("kronops.files", "kronops.sending"),
    ("kronops.extended.expansions",),
    ("kronops.extended.maps",),
    ("kronops.extended.matrices",),
    ("kronops.operators",),
    ("kronops.extended",),
    ("kronops.kronecker_terms", "kronops.mixed_products", "kronops.singular_vectors"),
    ("kronops.rearrangement", "kronops.simultaneous"),
    ("kronops.installation", "kronops.interop", "kronops.nearest", "kronops.prediction"),
    ("kronops.preconditioning",),
    ("kronops.algebra",),
    ("kronops",),
    ("kronops.linalg", "kronops.testing"),
    ("kronops.bench", "kronops.kfac", "kronops.linear_operator", "kronops.lineax", "kronops.plot"),
    ("kronops.__main__", "kronops.torch"),
)
# Operators that only kronops makes: they stand for results, and have no public constructor.
INTERNAL_OPERATORS = {
    "ChunkwiseOperator",
    "CongruentOperator",
    "GroupedOperator",
    "KroneckerSchurOperator",
    "LowRankInverseOperator",
    "PermutationOperator",
    "SchurBasisOperator",  # what two of them share
    "SelectionOperator",
}
# Whatever the user brings is imported by its backend or adapter, and by nothing else.
ARRAY_LIBRARIES = {"array_api_strict", "cupy", "cupyx", "dask", "jax", "jaxlib", "torch"}
ARRAY_LIBRARIES |= {"equinox", "lineax", "llvmlite", "numba"}
ARRAY_LIBRARIES |= {"cola", "linear_operator", "opt_einsum", "pyfastkron", "pykronecker", "pylops"}
# Modules that import such a library, which need not be installed.
FOR_SOME = {f"kronops.backends.{name}" for name in ("cupy", "dask", "jax", "torch")}
FOR_SOME |= {
    "kronops.backends.jax_meshes",
    "kronops.backends.kernels",
    "kronops.backends.tiles",
    "kronops.backends.torch_host",
    "kronops.bench.peers",
    "kronops.linear_operator",
    "kronops.lineax",
    "kronops.torch",
}
FOR_SOME |= {
    "kronops.kfac.torch",
    *(
        f"kronops.kfac.torch.{name}"
        for name in (
            "attention",
            "checking",
            "evaluation",
            "layer",
            "model_curvature",
            "modules",
            "recording",
            "survey",
        )
    ),
    "kronops.kfac.jax",
    *(f"kronops.kfac.jax.{name}" for name in ("model_curvature", "parameters", "taps")),
}
FOR_SOME |= {
    "kronops.plot",
    *(f"kronops.plot.{name}" for name in ("axes", "boxes", "curves", "trees")),
}
NOT_AT_IMPORT = ARRAY_LIBRARIES | {"hypothesis", "matplotlib", "pytest", "sklearn", "tqdm"}

PUBLIC_MODULES = (kronops, kronops.kfac, kronops.linalg, kronops.testing)
for adapter, needed in {
    "kronops.kfac.jax": "jax",
    "kronops.kfac.torch": "torch",
    "kronops.linear_operator": "linear_operator",
    "kronops.lineax": "lineax",
    "kronops.plot": "matplotlib",
    "kronops.torch": "torch",
}.items():
    if importlib.util.find_spec(needed):
        PUBLIC_MODULES += (importlib.import_module(adapter),)
# Classes and functions; what else is public speaks for itself.
PUBLIC = [
    pytest.param(getattr(module, name), id=f"{module.__name__}.{name}")
    for module in PUBLIC_MODULES
    for name in module.__all__
    if callable(getattr(module, name))
]


def run_python(code: str) -> str:
    """What ``code`` prints in a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestImport:
    def test_loads_no_array_library_but_numpy(self):
        loaded = run_python("import sys, kronops; print(*sys.modules)").split()
        roots = {name.partition(".")[0] for name in loaded}
        assert {"kronops", "numpy"} <= roots
        assert not roots & NOT_AT_IMPORT

    def test_takes_little_longer_than_numpy_and_scipy(self):
        code = (
            "import time\n"
            "start = time.perf_counter()\n"
            "import numpy, scipy.linalg, scipy.sparse.linalg\n"
            "middle = time.perf_counter()\n"
            "import kronops\n"
            "print((time.perf_counter() - middle) / (middle - start))"
        )
        assert statistics.median(float(run_python(code)) for _ in range(5)) < 1

    def test_prints_and_warns_nothing(self):
        code = "import kronops, kronops.kfac, kronops.linalg, kronops.testing"
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class TestExports:
    @pytest.mark.parametrize(
        "module", (kronops, kronops.kfac, kronops.linalg), ids=lambda module: module.__name__
    )
    def test_all_is_complete(self, module):
        public = {
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and not inspect.ismodule(value)
            if getattr(value, "__module__", "").startswith("kronops")
        }
        assert public == set(module.__all__)

    @pytest.mark.parametrize("module", PUBLIC_MODULES, ids=lambda module: module.__name__)
    def test_all_is_sorted(self, module):
        """Constants, classes, functions, each in the order of the alphabet, and each once."""
        names = list(module.__all__)
        kinds = {name: (not name.isupper(), not name[0].isupper(), name) for name in names}
        assert names == sorted(kinds, key=kinds.__getitem__)
        assert all(hasattr(module, name) for name in names)

    def test_every_operator_is_exported(self):
        defined = {
            value
            for module in map(importlib.import_module, sorted(modules().keys() - FOR_SOME))
            for value in vars(module).values()
            if inspect.isclass(value) and issubclass(value, kronops.LinearOperator)
        }
        defined = {
            value
            for value in defined
            if not value.__name__.startswith("_") and value.__name__ not in INTERNAL_OPERATORS
        }
        assert defined == {
            value
            for value in (getattr(kronops, name) for name in kronops.__all__)
            if inspect.isclass(value) and issubclass(value, kronops.LinearOperator)
        }

    @pytest.mark.parametrize("value", PUBLIC)
    def test_has_a_docstring_with_an_example(self, value):
        doc = inspect.getdoc(value)
        # A dataclass without a docstring is given its signature for one.
        assert doc
        assert not doc.startswith(f"{value.__name__}(")
        assert "Examples\n--------\n" in doc
        assert ">>> " in doc.partition("Examples\n--------\n")[2]

    def test_every_entry_of_the_api_reference_has_an_example(self):
        """Whatever module it is from, as far as its library is installed."""
        page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
        names = re.findall(r"^   ([\w.]+)$", page, re.MULTILINE)
        assert len(names) > 60
        without = []
        for name in names:
            module, _, attribute = f"kronops.{name}".rpartition(".")
            if module not in FOR_SOME or module in {known.__name__ for known in PUBLIC_MODULES}:
                value = getattr(importlib.import_module(module), attribute)
                without += [name] if ">>> " not in (inspect.getdoc(value) or "") else []
        assert without == []

    def test_every_method_of_an_operator_has_an_example(self):
        page = (ROOT / "docs" / "calls.md").read_text(encoding="utf-8")
        public = {name for name in vars(kronops.LinearOperator) if not name.startswith("_")}
        assert {"solve", "damped", "T"} <= public
        used = set(re.findall(r"^(?:>>>|\.\.\.) .*", page, re.MULTILINE))
        missing = {name for name in public if not any(f".{name}" in line for line in used)}
        assert missing == set()

    @pytest.mark.parametrize("value", [p for p in PUBLIC if inspect.isclass(p.values[0])])
    def test_public_methods_have_docstrings(self, value):
        """Their own, or that of the hook which they override."""
        without = [
            name
            for name, member in vars(value).items()
            if not name.startswith("_")
            if inspect.isfunction(member) or isinstance(member, (property, classmethod))
            if not inspect.getdoc(getattr(value, name))
        ]
        assert without == []

    def test_every_public_name_is_in_the_api_reference(self):
        page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
        listed = {line.strip() for line in page.splitlines()}
        for module in PUBLIC_MODULES:
            names = {
                f"{module.__name__}.{name}".removeprefix("kronops.")
                for name in module.__all__
                if callable(getattr(module, name))
            }
            assert names <= listed, f"docs/api.md lacks {sorted(names - listed)}"

    @pytest.mark.parametrize("module", PUBLIC_MODULES, ids=lambda module: module.__name__)
    def test_completion_shows_public_names(self, module):
        shown = {name for name in dir(module) if not name.startswith("_")}
        lazy = set(kronops._MODULES) if module is kronops else set()
        assert shown == set(module.__all__) | lazy
        assert all(hasattr(module, name) for name in shown)

    def test_is_typed(self):
        assert (PACKAGE / "py.typed").exists()


def test_the_oldest_versions_are_those_that_are_allowed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    allowed = {text.replace(">=", "==") + ".0" for text in project["dependencies"]}
    assert allowed <= set(project["optional-dependencies"]["oldest"])


def modules() -> dict[str, Path]:
    """Every module of the package, by name."""
    found = {"kronops": PACKAGE / "__init__.py"}
    for info in pkgutil.walk_packages([str(PACKAGE)], "kronops."):
        path = ROOT.joinpath(*info.name.split("."))
        found[info.name] = path / "__init__.py" if info.ispkg else path.with_suffix(".py")
    return found


def running(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker reads."""
    yield node
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        children: Iterable[ast.AST] = node.orelse
    else:
        children = ast.iter_child_nodes(node)
    for child in children:
        yield from running(child)


def imports(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """Every module that ``name`` imports when it runs, in functions too."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in running(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(filter(None, (above, node.module)))
            submodules = {f"{base}.{alias.name}" for alias in node.names} & known.keys()
            # `from kronops import errors` imports kronops.errors, not what kronops exports.
            found |= submodules if len(submodules) == len(node.names) else submodules | {base}
    return found


def entry_of(name: str) -> tuple[int, str] | None:
    """The floor of a module and the entry of the table that it falls under."""
    fitting = [
        (floor, entry)
        for floor, entries in enumerate(FLOORS)
        for entry in entries
        if name == entry or (entry != "kronops" and name.startswith(f"{entry}."))
    ]
    return max(fitting, key=lambda pair: len(pair[1]), default=None)


class TestFloors:
    def test_every_module_has_a_floor(self):
        assert [name for name in modules() if entry_of(name) is None] == []

    def test_every_floor_has_a_module(self):
        used = {entry_of(name)[1] for name in modules()}
        assert [entry for entries in FLOORS for entry in entries if entry not in used] == []

    def test_imports_point_down(self):
        known = modules()
        upward = []
        for name, path in known.items():
            floor, entry = entry_of(name)
            for imported in imports(name, path, known):
                if imported.partition(".")[0] != "kronops":
                    continue
                other_floor, other_entry = entry_of(imported) or (len(FLOORS), imported)
                if other_floor >= floor and other_entry != entry:
                    upward.append(f"{name} imports {imported}")
        assert upward == []

    def test_array_libraries_are_imported_by_backends_and_adapters_alone(self):
        known = modules()
        assert [
            f"{name} imports {imported}"
            for name, path in known.items()
            if name not in FOR_SOME
            for imported in imports(name, path, known)
            if imported.partition(".")[0] in ARRAY_LIBRARIES
        ] == []
