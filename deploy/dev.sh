#!/usr/bin/env bash
# Installs into .venv/ what the tests and tools run on, and ztclient and ztnode from this directory.
# uv takes 6 s of processor time for it and pip 75, so pip fetches uv. Where that finds no index, of which pip may know from
# its configuration, pip does the rest too.
set -eu
cd "$(dirname "$0")/.."
by_pip() { deploy/pip.sh install --quiet "$@"; }
by_uv() { VIRTUAL_ENV=.venv .venv/bin/uv pip install --quiet "$@"; }
awk '/^uv==/ { found = 1 } found { print; if (!/\\$/) exit }' deploy/constraints-dev.txt >.venv/uv.txt
by_pip --require-hashes -r .venv/uv.txt
install=by_uv
by_uv --require-hashes -r deploy/constraints-dev.txt || {
    install=by_pip
    by_pip --require-hashes -r deploy/constraints-dev.txt
}
$install --no-deps --no-build-isolation -e ./ztclient -e .
deploy/static-path.sh .venv
