"""The same with the oldest releases that ztclient.integrations claim to work with, installed beside."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

OLDEST = (
    "aiohttp==3.12.0",
    "httpcore==1.0.5",
    "httpx==0.27.0",
    "redis==5.0.1",
    "requests==2.32.0",
    "urllib3==2.2.0",
    "websockets==13.0",
)
ROOT = Path(__file__).parents[2]
BESIDE = ROOT / "build" / "oldest"


def installed() -> Path:
    """Where they are; fetched once. Skips where there is no index to fetch from."""
    place = BESIDE / f"{sys.version_info.major}.{sys.version_info.minor}"
    marker = place / ".made"
    wanted = "\n".join(OLDEST)
    if not marker.is_file() or marker.read_text() != wanted:
        shutil.rmtree(place, ignore_errors=True)
        uv = Path(sys.executable).with_name("uv")
        command = [str(uv), "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--python", sys.executable, "--target", str(place), *OLDEST]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        if done.returncode:
            pytest.skip(f"the oldest releases cannot be fetched: {done.stderr.strip()[-300:]}")
        marker.write_text(wanted)
    return place


@pytest.mark.timeout(300)
def test_the_oldest_releases() -> None:
    place = installed()
    check = "import httpx, urllib3, websockets; print(httpx.__version__, urllib3.__version__, websockets.__version__)"
    environ = {**os.environ, "PYTHONPATH": str(place)}
    versions = subprocess.run([sys.executable, "-c", check], env=environ, capture_output=True, text=True, check=True)
    assert versions.stdout.split() == ["0.27.0", "2.2.0", "13.0"]
    tests = ["tests/integrations/test_libraries.py", "tests/integrations/test_aiohttp.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", *tests],
        env={name: value for name, value in environ.items() if not name.startswith("PYTEST_XDIST")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout
