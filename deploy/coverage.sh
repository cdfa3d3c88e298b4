#!/usr/bin/env bash
# What the unit tests of the protocols and the stack covered: the figures, and a floor for each package below which CI
# fails. Takes the coverage program that measured. The floors are what was reached when they were set; raise them, do not
# lower them.
set -eu
cd "$(dirname "$0")/.."
coverage=${1:-.venv/bin/coverage}
$coverage combine --quiet
failed=()
floor() {
    local percent=$1 name=$2 files=$3 reached
    reached=$($coverage report --include="$files" --format=total --precision=1)
    printf '%-12s %5s %%  (floor %s %%)\n' "$name" "$reached" "$percent"
    awk "BEGIN { exit !($reached < $percent) }" && failed+=("$name")
    return 0
}
echo "coverage of the unit tests, lines"
floor 98 wire "ztnode/wire/*"
floor 96 vl1 "ztnode/vl1/*"
floor 98 vl2 "ztnode/vl2/*"
floor 96 netstack "ztnode/netstack/*"
floor 98 controller "ztnode/controller/*"
floor 98 ring "ztnode/ring.py"
[ ${#failed[@]} -eq 0 ] || { echo "below the floor: ${failed[*]}; $coverage report -m shows the lines" >&2; exit 1; }
