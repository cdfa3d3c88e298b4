# The two commands of the README are `make demo` and `make test`; each sets up .venv/ by itself.
PYTHON ?= python3
BIN := .venv/bin
# What is installed is pinned and checked: deploy/constraints.txt runs ztnode, deploy/constraints-dev.txt is that and the tools.
PIP := PYTHON=$(PYTHON) deploy/pip.sh
SECONDS ?= 60
# Beside .venv/'s own, of which CI has the oldest: the newest. Before a release: make test PYTHONS="3.12 3.13".
PYTHONS ?= 3.13
PROJECTS := pyproject.toml ztclient/pyproject.toml

.PHONY: help demo test tools fuzz check style types imports protocol manifests docs bench proto constraints dist clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' Makefile | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ztnode needs Python 3.11 or newer; try: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	@echo "making .venv/ with $(PYTHON)"
	@$(PYTHON) -m venv --without-pip .venv
	@touch $@

# Compiled when they are first used: of what is installed a demo uses the smaller part. It runs from this directory, for
# which nothing has to be built.
.venv/.libraries: .venv/.made deploy/constraints.txt
	@echo "fetching what ztnode runs on into .venv/ (40 MB; half a minute, and seconds from the second time on)"
	@$(PIP) install --no-compile --require-hashes -r deploy/constraints.txt
	@touch $@

.venv/.dev-installed: .venv/.made deploy/constraints-dev.txt $(PROJECTS)
	@echo "fetching what ztnode and its tests run on into .venv/ (150 MB; a minute)"
	@PYTHON=$(PYTHON) deploy/dev.sh
	@touch $@ .venv/.libraries

demo: .venv/.libraries  ## two nodes and a network of their own; a page goes from one to the other
	PYTHONPATH=$(CURDIR) $(BIN)/python -m ztnode demo

style: .venv/.dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.dev-installed
	$(BIN)/mypy

imports: .venv/.dev-installed
	PYTHONPATH=$(subst $(eval ) ,:,$(wildcard plugins/*)) $(BIN)/lint-imports --no-logo

protocol: .venv/.dev-installed
	deploy/buf.sh lint proto
	deploy/buf.sh format --diff --exit-code proto
	$(BIN)/python proto/generate.py --check

check: style types imports protocol  ## style, types, import rules; the protocol's style, and its stubs current

.venv-manifests/.installed: .venv/.dev-installed deploy/constraints-manifests.txt
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-manifests
	@VIRTUAL_ENV=.venv-manifests $(BIN)/uv pip install --quiet --require-hashes -r deploy/constraints-manifests.txt
	@touch $@

manifests: .venv-manifests/.installed  ## render deploy/kubernetes from the Helm chart; CHECK=--check compares alone
	.venv-manifests/bin/python deploy/manifests.py $(CHECK)

docs: .venv/.dev-installed  ## the documentation site in build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

tools: .venv/.dev-installed
	@deploy/test-tools.sh
	@deploy/pythons.sh $(PYTHONS) >/dev/null

test: .venv/.dev-installed  ## everything that CI runs
	$(MAKE) --jobs 2 --output-sync=target tools check docs
	$(MAKE) manifests CHECK=--check
	$(MAKE) fuzz SECONDS=4
	deploy/tests.sh $(PYTHONS)

fuzz: .venv/.dev-installed  ## every decoder and engine under atheris, SECONDS=60 each
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

bench: .venv/.dev-installed  ## one table on the terminal, figures in bench-results.json
	$(BIN)/python -m tests.bench

proto: .venv/.dev-installed  ## format the .proto files and make the gRPC stubs anew
	deploy/buf.sh format --write proto
	$(BIN)/python proto/generate.py

constraints: .venv/.dev-installed  ## pin the newest versions that fit, with hashes, in deploy/
	deploy/constraints.sh

dist: .venv/.dev-installed  ## wheels and source distributions of ztclient and ztnode, in dist/
	$(BIN)/uv build --quiet --out-dir dist ztclient
	$(BIN)/uv build --quiet --out-dir dist .

clean:  ## remove everything that was made
	rm -rf .venv .venv-* build dist *.egg-info ztclient/build ztclient/*.egg-info deploy/buf/node_modules
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
