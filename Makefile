# Everything here works in a fresh clone with git, make and Python >= 3.11 alone: each target makes
# .venv and installs the extras of pyproject.toml that it needs, once, and again when they change.

VENV := .venv
BIN := $(VENV)/bin
# The interpreter that .venv is made with, for example `make test PYTHON=python3.13`.
PYTHON :=
# Two workers share the cores: one BLAS thread for each. So has what examples compute: two would wait
# for each other where cores are shared.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 VECLIB_MAXIMUM_THREADS=1
WORKERS := 2
PYTEST = $(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-oldest test-threads test-all test-gpu lint types docs screenshots package faults mutants bench format picture clean

help: ## Say what there is.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' Makefile

demo: $(VENV)/demo.stamp ## Train two networks on real digits; one table, pictures in demo-output/.
	$(BIN)/python examples/digits.py --output demo-output

test: $(VENV)/test.stamp ## The whole suite, with every example of the documentation.
	$(PYTEST)

test-all: $(VENV)/test.stamp ## The same in every dtype of every library: JAX alone takes an hour.
	$(PYTEST) --all-dtypes

OLDEST := tests/test_laws.py $(addprefix tests/test_,algebra.py errors.py products.py series.py)
test-oldest: ## The laws on NumPy and more, with the oldest versions that are supported.
	@$(MAKE) --no-print-directory VENV=$(VENV)/oldest $(VENV)/oldest/oldest.stamp
	$(ONE_THREAD) $(VENV)/oldest/bin/python -m pytest -n $(WORKERS) $(OLDEST) \
		-k "not jax and not torch and not dask and not array_api_strict"

# Few machines have such a Python, so it is not a part of .ci/run; and not every release of a library
# has a wheel for it.
PARALLEL := $(addprefix tests/test_,algebra.py checks.py damping.py functions.py inverses.py \
	kronecker_sum.py products.py scales.py series.py single_precision.py)
test-threads: ## Each test by four threads at once, without the lock: PYTHON=python3.14t.
	@PIP_PREFER_BINARY=1 $(MAKE) --no-print-directory VENV=$(VENV)/threads $(VENV)/threads/threads.stamp
	@$(VENV)/threads/bin/python -c 'import sys; sys.exit(getattr(sys, "_is_gil_enabled", lambda: 1)())' \
	    || { echo "this Python has its lock: PYTHON=python3.14t, or 3.13t, would do" >&2; exit 1; }
	$(ONE_THREAD) $(VENV)/threads/bin/python -m pytest tests/test_concurrency.py
	$(ONE_THREAD) $(VENV)/threads/bin/python -m pytest --parallel-threads=4 $(PARALLEL)

# The libraries of a GPU fit its driver: they are the user's own, and no .venv is made for them.
test-gpu: ## The laws on a GPU, for example with PYTHON=python3 ARGS="-k cupy"; no GPU is an error.
	$(or $(PYTHON),python3) -m pytest tests/gpu $(ARGS)

lint: $(VENV)/lint.stamp ## Style, the order of imports, likely bugs.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/types.stamp ## The type annotations, and a sample of their use, checked strictly.
	$(BIN)/mypy
	$(BIN)/mypy tests/test_typed.py
	$(BIN)/basedpyright --pythonpath $(BIN)/python

docs: $(VENV)/docs.stamp ## The documentation, into docs/_build/html; a warning is an error.
	rm -rf docs/generated docs/_build
	$(ONE_THREAD) $(BIN)/python -m sphinx -W --keep-going -n -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

# The browser comes in a wheel (520 MB unpacked). Where there is none for this machine, or it does
# not start, the tests that need it are skipped, and say so.
screenshots: $(VENV)/docs.stamp ## Links, and pictures of what `make docs` built, by a browser.
	@test -e docs/_build/html/index.html || $(MAKE) --no-print-directory docs
	@$(MAKE) --no-print-directory $(VENV)/browser.stamp || \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check "pytest>=8.3,<9.2"
	rm -rf docs/_build/screenshots
	$(BIN)/python -m pytest tests/site
	@echo "docs/_build/screenshots: $$(ls docs/_build/screenshots 2>/dev/null | wc -l) pictures"

# Installed from the wheel alone, in an environment of its own, and run away from the sources.
package: $(VENV)/package.stamp ## The wheel and the sdist in dist/, checked, and the wheel tried.
	rm -rf dist $(VENV)/trial
	$(BIN)/validate-pyproject pyproject.toml
	$(BIN)/python -m build --outdir dist . >$(VENV)/build.log || { cat $(VENV)/build.log; exit 1; }
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python -m venv --clear $(VENV)/trial
	$(VENV)/trial/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	cd $(VENV)/trial && bin/python -m kronops

faults: $(VENV)/test.stamp ## Plant faults in a copy and see the suite fail on each.
	$(ONE_THREAD) $(BIN)/python tests/faults.py

mutants: $(VENV)/mutants.stamp ## Mutate modules and see their tests fail, for example with ARGS="kronops/damping.py --sample 50".
	$(ONE_THREAD) $(BIN)/python tests/mutants.py $(ARGS)

bench: $(VENV)/bench.stamp ## Products beside those of every peer, for example with ARGS="--quick --threads 1".
	$(BIN)/python benchmarks/kronecker.py $(ARGS)

format: $(VENV)/lint.stamp ## Rewrite the sources as `make lint` wants them.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

picture: $(VENV)/docs.stamp ## Draw the pictures of the README and the first page anew.
	$(BIN)/python docs/picture.py

clean: ## Remove what make made.
	rm -rf $(VENV) demo-output dist docs/_build docs/generated
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache

$(VENV)/%.stamp: pyproject.toml $(VENV)/python.stamp
	@echo "Installing kronops[$*] into $(VENV)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	@touch $@

$(VENV)/python.stamp:
	@set -e; \
	for candidate in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11 python); do \
	    if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	        2>/dev/null; then \
	        echo "Making $(VENV) with $$candidate ($$("$$candidate" --version 2>&1))"; \
	        "$$candidate" -m venv --clear $(VENV); \
	        touch $@; \
	        exit 0; \
	    fi; \
	done; \
	echo "kronops needs Python 3.11 or later with the venv module, and found none under:" \
	    "$(or $(PYTHON),python3 python3.14 ... python3.11 python)." >&2; \
	echo "Install one (on Debian and Ubuntu: apt install python3 python3-venv)," \
	    "or name one: make $(or $(MAKECMDGOALS),test) PYTHON=/path/to/python3" >&2; \
	exit 1
