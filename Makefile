# Every target sets up .venv by itself; Python 3.11 or later and make are all it takes.
PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready

# torch is installed by itself, so that its build can be chosen without touching the rest: pip takes a CPU
# wheel where your index or find-links offers one, and TORCH= says where else to look, for instance
#   make test TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
# A version of torch is many files, one for each kind of accelerator, so its hash is the one that your index gives. All
# else is installed by the hashes of requirements.lock, and before torch, which then finds what it needs.
TORCH  ?= $(shell grep '^torch==' constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help setup demo test check lock bench evidence soak docs clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

setup: $(READY)  ## create .venv with the tested versions of everything

$(READY): pyproject.toml constraints.txt requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mmpo needs Python 3.11 or later; name one: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --no-deps --require-hashes -r requirements.lock
	$(PY) -m pip install -q $(TORCH)
	$(PY) -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY)  ## the whole road on generated data: runs/demo/report.html
	$(PY) -m mmpo demo --out runs/demo

test: export OMP_NUM_THREADS := 1
test: $(READY)  ## run the tests
	$(PY) -m pytest -q -n 2

check: $(READY)  ## lint, format, types and known vulnerabilities
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(PY) -m tools.audit

lock: $(READY)  ## write requirements.lock anew, after a change of constraints.txt
	$(PY) -m pip install -q uv
	grep -Ev '^(#|torch==)' constraints.txt | $(VENV)/bin/uv pip compile - -o requirements.lock -q --upgrade \
	  --no-deps --generate-hashes --no-annotate --python-version 3.11.5 --custom-compile-command 'make lock'

bench: $(READY)  ## compare numbers and speed with peers
	$(PY) -m bench

evidence: $(READY)  ## run the experiments on real graded data
	$(PY) -m evidence

soak: $(READY)  ## kill, flood and mislead it for hours: docs/reliability.md
	$(PY) -m soak

docs: $(READY)  ## build the documentation into site/
	$(VENV)/bin/mkdocs build --strict

clean:  ## remove what the targets made
	rm -rf $(VENV) site build dist .pytest_cache .mypy_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
