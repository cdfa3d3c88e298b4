"""docs/CLIENT.md: each block is run as it stands there but for the addresses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.harness import PORT, Overlay, ipv4

TEXT = (Path(__file__).parents[2] / "docs" / "CLIENT.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block(overlay: Overlay, number: int) -> None:
    replaced = {
        "9ad07d01093a69e3": overlay.nwid,
        "10.121.15.99": overlay.ip,
        "10.121.15.1": ipv4(overlay.beta, overlay.nwid),
        "5380": str(PORT),
    }
    script = re.sub("|".join(map(re.escape, replaced)), lambda found: replaced[found[0]], BLOCKS[number])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "ZTNODE_STATE": str(overlay.beta.state), "ZTNODE_PLANET": str(overlay.network.planet)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "200" in done.stdout and "False" not in done.stdout
