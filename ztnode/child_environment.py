"""The environment of the processes that a node starts."""

from __future__ import annotations

import os
import site
from pathlib import Path

import ztnode


def child_environment() -> dict[str, str]:
    """Ours, less the threads that numpy's linear algebra would start, and able to import what we did."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    root = str(Path(ztnode.__file__).parent.parent)
    if root not in (*site.getsitepackages(), site.getusersitepackages()):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return environment
