"""The README's commands, run as they stand there but for the addresses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from ztnode.embedded import EmbeddedMember, free_port

README = (Path(__file__).parents[2] / "README.md").read_text()
BIN = str(Path(sys.executable).parent)


def commands(section: str) -> list[str]:
    """The console commands of one section, without their comments."""
    text = README.partition(f"## {section}\n")[2].partition("\n## ")[0]
    block = re.search(r"```console\n(.*?)```", text, re.DOTALL)
    assert block, section
    return [re.sub(r"\s+#.*", "", line[2:]) for line in block[1].splitlines() if line.startswith("$ ")]


def run(command: str, directory: Path) -> str:
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        command, shell=True, cwd=directory, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def test_a_network_of_your_own_and_joining_it(tmp_path: Path) -> None:
    port = free_port()
    own = [line.replace("203.0.113.7/9993", f"127.0.0.1/{port}") for line in commands("A network of your own")]
    identity, planet, serve, create, member_line, authorize = own
    run(identity, tmp_path)
    run(planet, tmp_path)
    assert member_line == "ztnode serve --state st --planet planet --join NWID &"
    assert serve.startswith("ztnode serve --state root --planet planet ") and serve.endswith(" &")
    flags = serve.removesuffix(" &").split()[6:]
    root = EmbeddedMember(
        "root", tmp_path / "root", ["--planet", str(tmp_path / "planet"), "--port", str(port), *flags], ()
    )
    member = None
    try:
        root.wait_online()
        created = run(f"{create} --json", tmp_path)
        nwid = re.search(r'"(?:nwid|id)": "([0-9a-f]{16})"', created)
        assert nwid
        _, serve, join, ips, _call = commands("Join your own network in five lines")
        assert serve == "ztnode serve --state ./st &"
        member = EmbeddedMember("st", tmp_path / "st", ["--planet", str(tmp_path / "planet"), "--port", "0"], ())
        member.wait_online()
        environment = f"ZTNODE_STATE={tmp_path}/st "
        run(authorize.replace("NWID", nwid[1]).replace("ADDRESS", member.node.status().address), tmp_path)
        run(environment + join.replace("9ad07d01093a69e3", nwid[1]), tmp_path)
        assert "10.121.15." in run(environment + ips, tmp_path)
    finally:
        for started in (member, root):
            if started is not None:
                started.stop()
