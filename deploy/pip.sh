#!/usr/bin/env bash
# pip for .venv/, with the arguments given. That of the Python which made it will do, and making .venv/ without one of its
# own takes a second instead of eight; where that has no pip, or one that cannot work on another Python (before 22.3),
# .venv/ gets its own.
set -eu
cd "$(dirname "$0")/.."
own=.venv/bin/python
quiet=--disable-pip-version-check
if ! "$own" -c 'import pip' 2>/dev/null; then
    if "$PYTHON" -m pip $quiet --python "$own" --version >/dev/null 2>&1; then
        exec "$PYTHON" -m pip $quiet --python "$own" "$@"
    fi
    "$own" -m ensurepip >/dev/null
fi
exec "$own" -m pip $quiet "$@"
