#!/usr/bin/env bash
# Runs the tests on the Pythons there are: .venv/, and of the versions given those that are installed.
#
# The newest runs all unit tests, and what they cover is measured: from 3.12 on the interpreter tells that for little.
# .venv/ runs what needs processes and networks. All but the newest run the unit tests in which a version can differ:
# those about sockets, event loops and processes; codecs and simulations are arithmetic, and commands run in tests/system.
# There, warnings that a later Python breaks something are errors.
# What is between processes waits more than it computes: twice as many at a time as there are cores, and in what they
# leave of these, the other Pythons.
set -u
cd "$(dirname "$0")/.."
# With it every process that a test starts would compile itself and its libraries anew, for a second or more.
unset PYTHONDONTWRITEBYTECODE
failed=()
pytest=(-m pytest -n auto --dist loadfile -p no:cacheprovider)
differing=(
    tests/unit/{client,control,node,plugins} tests/unit/forwarding/test_forwarding.py
    tests/unit/worker/test_{adoption,handoff,loop,splice,watchdog,worker_protocol}.py
    # Identities take long everywhere.
    --ignore=tests/unit/node/test_identity_pool.py
)

version() { "$1/bin/python" -c 'import sys; print("%d%02d" % sys.version_info[:2])'; }
run() {
    local what=$1
    echo "== $what ($SECONDS s)"
    shift
    "$@" || failed+=("$what")
}

others=$(deploy/pythons.sh "$@") || failed+=("environments of other Pythons")
newest=.venv
environments=(.venv)
for environment in $others; do
    environments+=("$environment")
    [ "$(version "$environment")" -gt "$(version "$newest")" ] && newest=$environment
done

rm -rf build/coverage && mkdir -p build/coverage
core=ctrace
[ "$(version "$newest")" -ge 312 ] && core=sysmon
run "all unit tests on $("$newest/bin/python" --version), measured" \
    env COVERAGE_CORE=$core "$newest/bin/coverage" run "${pytest[@]}" tests/unit
run "coverage" deploy/coverage.sh "$newest/bin/coverage"

on_others() {
    local environment
    failed=() # this is a process of its own
    for environment in "${environments[@]}"; do
        [ "$environment" = "$newest" ] && continue
        # A directory of its own: pytest closes the one that all sessions share to the users that some tests need.
        run "unit tests on $("$environment/bin/python" --version)" nice -n 10 "$environment/bin/python" "${pytest[@]}" -q \
            --basetemp="$(mktemp -d)/t" --hypothesis-profile quick -W error::DeprecationWarning "${differing[@]}"
    done
    [ ${#failed[@]} -eq 0 ]
}
mkdir -p build
# Job control: what runs in the background is deaf to Ctrl-C without it, which tests send, and has no process group of
# its own to end it by.
set -m
on_others >build/others.log 2>&1 &
others_running=$!
set +m
trap 'kill -- "-$others_running" 2>/dev/null' EXIT
run "processes and networks on $(.venv/bin/python --version)" .venv/bin/python "${pytest[@]}" -n "$((2 * $(nproc)))" --ignore=tests/unit
wait "$others_running" || failed+=("unit tests on other Pythons")
cat build/others.log
[ ${#failed[@]} -eq 0 ] || { printf 'failed: %s\n' "${failed[@]}" >&2; exit 1; }
