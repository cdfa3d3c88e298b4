#!/usr/bin/env bash
# Runs buf, the linter and formatter of .proto files, which comes from npm in a pinned version: deploy/buf.sh lint proto
# Where there is no npm, one line says so and nothing is checked; CI has it.
set -eu
home="$(cd "$(dirname "$0")" && pwd)/buf"
if ! command -v npm >/dev/null 2>&1; then
    echo "left out, because npm is not installed: buf $*"
    exit 0
fi
if [ "$home/package-lock.json" -nt "$home/node_modules/.package-lock.json" ]; then
    npm ci --prefix "$home" --loglevel=error --no-audit --no-fund --ignore-scripts
    touch "$home/node_modules/.package-lock.json"
fi
exec "$home/node_modules/.bin/buf" "$@"
