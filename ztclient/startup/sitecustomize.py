"""Run by Python at its start, in programs that ``ztnode exec`` started; see ztclient.patching."""

import contextlib
import importlib
import os
import sys


def start() -> None:
    """Put the overlay in place, then let the sitecustomize that this one hides have its turn."""
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib costs every Python its start
    try:
        from ztclient.patching import patch
    except ImportError as error:
        print(f"ztnode exec: {sys.executable} has no ztclient ({error})", file=sys.stderr)
        raise SystemExit(1) from None
    patch().start()
    sys.path[:] = [each for each in sys.path if os.path.abspath(each) != here]  # noqa: PTH100
    ours = sys.modules.pop("sitecustomize")
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module("sitecustomize")
    sys.modules.setdefault("sitecustomize", ours)  # whoever imported us looks for it


if __name__ == "sitecustomize":
    start()
