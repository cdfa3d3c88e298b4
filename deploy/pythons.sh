#!/usr/bin/env bash
# Makes .venv-X.Y, an environment of the pinned versions, for each of the Python versions given that is installed, as
# pythonX.Y or by pyenv, and prints its name. That of .venv/ needs none.
set -u
cd "$(dirname "$0")/.."
uv=.venv/bin/uv
export UV_PYTHON_DOWNLOADS=never

interpreter() {
    local found
    for found in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
        # A pyenv shim is there for versions that are not in use, too, and fails.
        "$found" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null && echo "$found" && return
    done
    return 1
}

for version in "$@"; do
    environment=.venv-$version
    [ "$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')" = "$version" ] && continue
    if ! python="$(interpreter "$version")"; then
        echo "left out, because it is not installed: Python $version" >&2
        continue
    fi
    if [ ! -e "$environment/.installed" ] || [ -n "$(find deploy/constraints-dev.txt pyproject.toml -newer "$environment/.installed")" ]; then
        "$uv" venv --quiet --clear --python "$python" "$environment" &&
            VIRTUAL_ENV=$PWD/$environment "$uv" pip install --quiet --constraints deploy/constraints-dev.txt \
                -e ./ztclient -e '.[test]' 'coverage>=7.10' &&
            deploy/static-path.sh "$environment" &&
            touch "$environment/.installed" || exit 1
    fi
    echo "$environment"
done
