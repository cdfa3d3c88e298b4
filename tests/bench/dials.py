"""Short connections: what one costs each process, how many there are in a second, and how long one takes. Both members,
and the client and the server, are processes of this machine.

    python -m tests.bench.dials [--count N] [--at-once N]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.bench import machine
from tests.bench.overlay import ipv4
from tests.system.harness import identities
from ztnode.embedded import EmbeddedNetwork

PORT = 7
SERVER = f"""
import sys, ztclient
with ztclient.Node(sys.argv[1]).listen(sys.argv[2], {PORT}) as listener:
    print("listening", flush=True)
    while True:
        listener.accept()[0].close()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--at-once", type=int, default=50)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, EmbeddedNetwork(Path(folder), identities=identities()) as network:
        nwid = network.create()
        members = {"accepting": network.add("accepting"), "dialling": network.add("dialling")}
        for member in members.values():
            member.wait_online()
        ip, _ = [ipv4(member, nwid) for member in members.values()]
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER, members["accepting"].node.address, ip], stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            server.stdout.readline()
            processes = {"server": [server.pid]}
            for name, member in members.items():
                workers = [worker.pid for worker in member.node.status().workers]
                processes[f"{name} worker"] = workers
                processes[f"{name} node"] = [pid for pid in machine.tree(member.process.pid) if pid not in workers]
            dial = members["dialling"].node.dial
            for _ in range(20):
                dial(ip, PORT).close()

            def timed(_: int) -> float:
                began = time.perf_counter()
                connected = dial(ip, PORT)
                took = time.perf_counter() - began
                connected.close()
                return took

            before = {name: machine.run_seconds(pids) for name, pids in processes.items()}
            own, began = time.process_time(), time.perf_counter()
            with ThreadPoolExecutor(arguments.at_once) as pool:
                times = list(pool.map(timed, range(arguments.count)))
            elapsed, own = time.perf_counter() - began, time.process_time() - own
            print(f"{arguments.count / elapsed:.0f} a second, median {statistics.median(times) * 1e3:.2f} ms")
            for name, pids in processes.items():
                used = machine.run_seconds(pids) - before[name]
                print(f"{name + ', µs of CPU each':<32}{used / arguments.count * 1e6:6.0f}")
            print(f"{'client, µs of CPU each':<32}{own / arguments.count * 1e6:6.0f}")
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    main()
