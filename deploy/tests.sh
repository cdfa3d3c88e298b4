#!/usr/bin/env bash
# Runs the tests on the Pythons there are: .venv/, and of the versions given those that are installed.
#
# The newest runs all unit tests. What those of the protocols and the stack cover is measured, in which nothing is between
# processes: from 3.12 on the interpreter tells that for little, but every process that is started loads what measures.
# .venv/ runs what needs processes and networks. The others run the unit tests in which a version can differ: those about
# sockets and event loops; codecs and simulations are arithmetic, and commands run in tests/system. There,
# warnings that a later Python breaks something are errors.
# All of them wait half of the time, and what is between processes more: one more at a time than there are cores, and three
# times as many.
set -u
cd "$(dirname "$0")/.."
# With it every process that a test starts would compile itself and its libraries anew, for a second or more.
unset PYTHONDONTWRITEBYTECODE
failed=()
# In the order in which they are collected (tests/conftest.py), not those with most tests first.
pytest=(-m pytest -n "$(($(nproc) + 1))" --dist loadfile --no-loadscope-reorder -p no:cacheprovider)
measured=(
    tests/unit/{controller,netstack,ring,vl1,vl2,wire}
    tests/unit/{control/test_controller_service,node/test_ahead}.py # a controller's ways in and out
)
differing=(
    tests/unit/{client,control,node,plugins}
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
on_newest="on $("$newest/bin/python" --version)"
run "unit tests of the protocols and the stack $on_newest, measured" \
    env COVERAGE_CORE=$core "$newest/bin/coverage" run "${pytest[@]}" "${measured[@]}"
run "the other unit tests $on_newest" \
    "$newest/bin/python" "${pytest[@]}" tests/unit "${measured[@]/#/--ignore=}"
run "coverage" deploy/coverage.sh "$newest/bin/coverage"
run "processes and networks on $(.venv/bin/python --version)" .venv/bin/python "${pytest[@]}" -n "$((3 * $(nproc)))" --ignore=tests/unit
for environment in "${environments[@]}"; do
    [ "$environment" = "$newest" ] || [ "$environment" = .venv ] && continue
    run "unit tests on $("$environment/bin/python" --version)" "$environment/bin/python" "${pytest[@]}" -q \
        --hypothesis-profile quick -W error::DeprecationWarning "${differing[@]}"
done
[ ${#failed[@]} -eq 0 ] || { printf 'failed: %s\n' "${failed[@]}" >&2; exit 1; }
