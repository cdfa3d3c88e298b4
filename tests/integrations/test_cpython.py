"""CPython's own tests of what is made of sockets, over two real nodes: see cpython_suite.

The quick ones by default; all of them with ZTNODE_CPYTHON_TESTS=all.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from tests.system.harness import Overlay

QUICK = ("test_httplib", "test_smtplib", "test_socketserver", "test_asyncio.test_streams", "test_urllib2_localnet")
SLOW = ("test_ftplib", "test_xmlrpc")


@pytest.mark.timeout(400)
def test_cpythons_own_tests(overlay: Overlay) -> None:
    if importlib.util.find_spec("test.test_httplib") is None:
        pytest.skip("this Python came without its tests (Debian: libpython3-testsuite)")
    names = [*QUICK, *(SLOW if os.environ.get("ZTNODE_CPYTHON_TESTS") == "all" else ())]
    command = [sys.executable, "-m", "tests.integrations.cpython_suite"]
    command += [str(overlay.alpha.state), str(overlay.beta.state), *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=350, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
    assert int(done.stdout.splitlines()[-1].split()[0]) > 250
