# The two commands of the README are `make demo` and `make test`; each sets up .venv/ by itself.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check bench proto clean

.venv/.installed: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ztnode needs Python 3.11 or newer; try: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: .venv/.installed  ## two nodes and a network of their own; a page goes from one to the other
	$(BIN)/ztnode demo

check: .venv/.installed  ## style, types, the rooms' import rules, stubs current
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python proto/generate.py --check

test: check  ## everything that CI runs
	@deploy/test-tools.sh
	$(BIN)/pytest -n auto --dist loadfile

bench: .venv/.installed  ## one table on the terminal, figures in bench-results.json
	$(BIN)/python -m tests.bench

proto: .venv/.installed  ## make the gRPC stubs anew
	$(BIN)/python proto/generate.py

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
