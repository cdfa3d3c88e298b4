"""What ``examples/`` shows works as it stands there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_a_project_that_uses_the_pytest_fixtures(tmp_path: Path) -> None:
    """As its own pytest run, which finds the fixtures by the entry point alone."""
    test = tmp_path / "test_greeter.py"
    documented = (EXAMPLES.parent / "docs/CLIENT.md").read_text().partition("```text\ndef test_")[2].partition("```")[0]
    test.write_text((EXAMPLES / "pytest/test_greeter.py").read_text() + "\n\ndef test_" + documented)
    pool = Path(__file__).parents[1] / "vectors/vl1/pool.txt"
    (tmp_path / "pytest.ini").write_text(f"[pytest]\nzerotier_identities = {pool}\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "t")]
    done = subprocess.run([*command, str(test)], cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
