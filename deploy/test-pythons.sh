#!/usr/bin/env bash
# Runs the quick unit tests on other Pythons, those of the versions given that are installed: as pythonX.Y, or by pyenv.
# Each gets an environment .venv-X.Y of the pinned versions. Warnings that a later Python breaks something are errors.
set -u
cd "$(dirname "$0")/.."
uv=.venv/bin/uv
failed=()
# Long, and arithmetic alone, which is the same on every Python: simulated networks, floods, identities, the tables of the
# steering program. Also whole networks of processes, of which test_workers.py has enough.
without=(
    tests/unit/cli/test_demo.py
    tests/unit/netstack/tcp/test_tcp_bbr.py
    tests/unit/netstack/tcp/test_tcp_features.py
    tests/unit/netstack/tcp/test_tcp_simulation.py
    tests/unit/node/test_identity_pool.py
    tests/unit/vl1/test_vl1_hostile.py
    tests/unit/worker/test_fragment_steering.py
    tests/unit/worker/test_sharding.py
    tests/unit/worker/test_steering.py
)

interpreter() {
    local found
    for found in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
        # A pyenv shim is there for versions that are not in use, too, and fails.
        "$found" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null && echo "$found" && return
    done
    return 1
}

for version in "$@"; do
    if ! python="$(interpreter "$version")"; then
        echo "left out, because it is not installed: Python $version"
        continue
    fi
    environment=.venv-$version
    export VIRTUAL_ENV=$PWD/$environment UV_PYTHON_DOWNLOADS=never
    if [ deploy/constraints-dev.txt -nt "$environment/.installed" ] || [ pyproject.toml -nt "$environment/.installed" ]; then
        "$uv" venv --quiet --clear --python "$python" "$environment" &&
            "$uv" pip install --quiet --constraints deploy/constraints-dev.txt -e '.[test]' &&
            touch "$environment/.installed" || { failed+=("$version"); continue; }
    fi
    echo "unit tests on $("$environment/bin/python" --version)"
    "$environment/bin/pytest" -q -n auto --dist loadfile --hypothesis-profile quick -p no:cacheprovider \
        -W error::DeprecationWarning "${without[@]/#/--ignore=}" tests/unit ||
        failed+=("$version")
done
[ ${#failed[@]} -eq 0 ] || { echo "failed on Python ${failed[*]}" >&2; exit 1; }
