#!/usr/bin/env bash
# Pins the newest versions that pyproject.toml allows, with the hashes of their files for every platform and Python from
# 3.11 on: constraints.txt for what ztnode runs on, constraints-dev.txt for that and the tools of the dev extra.
# constraints-sbom.txt is what the container's bill of materials is made by, constraints-manifests.txt what deploy/manifests.py
# checks manifests by: Helm as a library and the schemas of Kubernetes, 350 MB of which nothing else has any use.
# The build back end is in the first two, so that ztnode itself is installed with nothing unpinned (pip: --no-build-isolation).
set -eu
cd "$(dirname "$0")/.."
pin() {
    printf 'setuptools>=77\n' | .venv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
        --no-annotate --no-emit-package ztclient --no-emit-package ztnode --custom-compile-command "make constraints" \
        "$@" pyproject.toml -
}
pin --extra dev --output-file deploy/constraints-dev.txt
pin --constraints deploy/constraints-dev.txt --output-file deploy/constraints.txt
pin_alone() {
    .venv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate \
        --custom-compile-command "make constraints" --output-file "$1" -
}
printf 'cyclonedx-bom\n' | pin_alone deploy/constraints-sbom.txt
printf 'check-jsonschema\nhelm-python-sdk\nkubernetes-validate\npyyaml\n' | pin_alone deploy/constraints-manifests.txt
