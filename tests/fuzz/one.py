"""python -m tests.fuzz.one TARGET SEEDS ARGUMENT...: what ``tests.fuzz`` starts for each target.

It writes the target's seeds into the directory SEEDS ("-": none), hands libFuzzer its arguments and never returns.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from pathlib import Path

import atheris


def main() -> None:
    """See the module."""
    name, seeds = sys.argv[1:3]
    with atheris.instrument_imports(include=["ztnode", "ztclient"]):
        target = importlib.import_module(f"tests.fuzz.targets.{name}")
    if seeds != "-":
        for seed in target.seeds():
            (Path(seeds) / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
    atheris.Setup([sys.argv[0], *sys.argv[3:]], target.fuzz)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
