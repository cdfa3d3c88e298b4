"""ZeroTier's own rule compiler, run by node, makes and repeats the vectors:
``python -m tests.unit.rules_language.reference_compiler DIRECTORY``, the directory being that of its ``cli.js``
(``rule-compiler/`` in ZeroTierOne 1.14.1)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parents[2] / "vectors/rules_language/compiled.json"


def compile_there(directory: Path, source: str) -> dict[str, Any]:
    """What it makes of ``source``: ``config``, ``capabilitiesByName`` and ``tagsByName``, or ``error``: [line, column]
    as it counts them, [0, 0] where it fell over its own feet."""
    with tempfile.NamedTemporaryFile("w", suffix=".ztrules", newline="") as file:
        file.write(source)
        file.flush()
        done = subprocess.run(
            ["node", str(directory / "cli.js"), file.name], capture_output=True, text=True, timeout=60, check=False
        )
    if done.returncode == 0:
        result: dict[str, Any] = json.loads(done.stdout)
        return result
    place = re.search(r" line (\d+) column (\d+): ", done.stderr)
    assert place, done.stderr
    return {"error": [int(place[1]), int(place[2])]}


def main() -> None:
    """Write what it says of the sources that the vectors have."""
    cases = json.loads(VECTORS.read_text())
    made = [
        {
            "name": case["name"],
            "source": case["source"],
            **compile_there(Path(sys.argv[1]), "\n".join(case["source"])),
        }
        for case in cases
    ]
    VECTORS.write_text(json.dumps(made, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
