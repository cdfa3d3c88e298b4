#!/usr/bin/env bash
# Runs the tests on the Pythons there are: .venv/, and of the versions given those that are installed, as pythonX.Y or by
# pyenv, each with an environment .venv-X.Y of the pinned versions.
#
# The newest runs all unit tests, and what they cover is measured: from 3.12 on the interpreter tells that for little.
# .venv/ runs what needs processes and networks. All but the newest run the unit tests in which a version can differ:
# those about sockets, event loops and processes; codecs and simulations are arithmetic, and commands run in tests/system.
# There, warnings that a later Python breaks something are errors.
set -u
cd "$(dirname "$0")/.."
uv=.venv/bin/uv
failed=()
pytest=(-m pytest -n auto --dist loadfile -p no:cacheprovider)
differing=(
    tests/unit/{client,control,node,plugins,proxy} tests/unit/forwarding/test_forwarding.py
    tests/unit/worker/test_{adoption,handoff,loop,splice,watchdog,worker_protocol}.py
    # Identities take long everywhere.
    --ignore=tests/unit/node/test_identity_pool.py
)

interpreter() {
    local found
    for found in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
        # A pyenv shim is there for versions that are not in use, too, and fails.
        "$found" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null && echo "$found" && return
    done
    return 1
}

version() { "$1/bin/python" -c 'import sys; print("%d%02d" % sys.version_info[:2])'; }
run() {
    local what=$1
    echo "== $what"
    shift
    "$@" || failed+=("$what")
}

newest=.venv
environments=(.venv)
for version in "$@"; do
    environment=.venv-$version
    [ "$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')" = "$version" ] && continue
    if ! python="$(interpreter "$version")"; then
        echo "left out, because it is not installed: Python $version"
        continue
    fi
    export UV_PYTHON_DOWNLOADS=never
    if [ ! -e "$environment/.installed" ] || [ -n "$(find deploy/constraints-dev.txt pyproject.toml -newer "$environment/.installed")" ]; then
        "$uv" venv --quiet --clear --python "$python" "$environment" &&
            VIRTUAL_ENV=$PWD/$environment "$uv" pip install --quiet --constraints deploy/constraints-dev.txt \
                -e ./ztclient -e '.[test]' 'coverage>=7.10' &&
            touch "$environment/.installed" || { failed+=("install $version"); continue; }
    fi
    environments+=("$environment")
    [ "$(version "$environment")" -gt "$(version "$newest")" ] && newest=$environment
done

rm -rf build/coverage && mkdir -p build/coverage
core=ctrace
[ "$(version "$newest")" -ge 312 ] && core=sysmon
run "all unit tests on $("$newest/bin/python" --version), measured" \
    env COVERAGE_CORE=$core "$newest/bin/coverage" run "${pytest[@]}" tests/unit
run "coverage" deploy/coverage.sh "$newest/bin/coverage"
run "processes and networks on $(.venv/bin/python --version)" .venv/bin/python "${pytest[@]}" --ignore=tests/unit
for environment in "${environments[@]}"; do
    [ "$environment" = "$newest" ] && continue
    run "unit tests on $("$environment/bin/python" --version)" "$environment/bin/python" "${pytest[@]}" -q \
        --hypothesis-profile quick -W error::DeprecationWarning "${differing[@]}"
done
[ ${#failed[@]} -eq 0 ] || { printf 'failed: %s\n' "${failed[@]}" >&2; exit 1; }
