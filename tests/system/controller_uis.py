"""The calls that controller UIs make, replayed; and what a zerotier-one answers to them, recorded:
``python -m tests.system.controller_uis /path/to/zerotier-one``, as root (it runs alone in a network namespace).

``{address}`` in a path is the controller's own address, ``{nwid}`` the network that the last ``______`` made.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parents[1] / "vectors/controller_uis.json"
_PORT = 19993
Ask = Callable[[str, str, Any], tuple[int, Any]]


@dataclass(frozen=True, slots=True)
class Answered:
    """One call and its answer; ids of the one who answered are ``{address}`` and ``{nwid}`` in it."""

    call: dict[str, Any]
    status: int
    answer: Any


def replay(calls: list[dict[str, Any]], ask: Ask) -> Iterator[Answered]:
    """Make the calls one after the other. ``ask``: method, path, body → status and JSON."""
    address = ask("GET", "/status", None)[1]["address"]
    nwid = "0" * 16
    for call in calls:
        path = call["path"].replace("{address}", address).replace("{nwid}", nwid)
        status, answer = ask(call["method"], path, call["sent"])
        if call["path"].endswith("______"):
            nwid = answer["id"]
        text = json.dumps(answer).replace(nwid, "{nwid}").replace(address, "{address}")
        yield Answered(call, status, json.loads(text))


def main() -> None:
    """Write what the program says to the calls that the vectors have."""
    vectors = json.loads(VECTORS.read_text())
    with tempfile.TemporaryDirectory() as home:
        command = ["unshare", "-n", sys.executable, "-m", "tests.system.controller_uis", "--alone", sys.argv[1], home]
        answered = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        vectors["calls"] = json.loads(answered.replace(home, "/var/lib/zerotier-one"))
    VECTORS.write_text(json.dumps(vectors, indent=1, sort_keys=True) + "\n")


def _alone(program: str, home: str) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    node = subprocess.Popen([program, f"-p{_PORT}", "-U", home], stdout=subprocess.DEVNULL)
    try:
        token = Path(home, "authtoken.secret")
        while not Path(home, "zerotier-one.port").exists() or not token.exists():
            assert node.poll() is None, "it ended"
            time.sleep(0.1)

        def ask(method: str, path: str, sent: Any) -> tuple[int, Any]:
            connection = http.client.HTTPConnection("127.0.0.1", _PORT, timeout=20)
            body = None if sent is None else json.dumps(sent)
            connection.request(method, path, body, {"X-ZT1-Auth": token.read_text().strip()})
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text else None

        for _ in range(100):
            try:
                ask("GET", "/status", None)
                break
            except OSError:
                time.sleep(0.1)
        calls = json.loads(VECTORS.read_text())["calls"]
        print(json.dumps([{**each.call, "status": each.status, "answer": each.answer} for each in replay(calls, ask)]))
    finally:
        node.terminate()
        node.wait()


if __name__ == "__main__":
    if sys.argv[1] == "--alone":
        _alone(*sys.argv[2:])
    else:
        main()
