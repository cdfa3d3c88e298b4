"""python -m tests.fuzz [TARGET ...] [--seconds N] [--jobs N]

Fuzzes each target for so many seconds, from its seeds and what is kept in ``tests/fuzz/corpus``. Ends with 1 where one
fails; the input that did it is then in ``build/fuzz``, and ``python -m tests.fuzz TARGET --replay FILE`` runs it again.
``--keep`` adds the smallest of the new inputs to the corpus.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "tests/fuzz/corpus"
FOUND = ROOT / "build/fuzz"
MAX_INPUT = 4096
MEMORY_MB = 2048
ONE_INPUT_SECONDS = 20
MAX_KEPT = 40
"""Of one run, of one target: the corpus is to be small."""


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: 60)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="targets at a time (default: the cores)")
    parser.add_argument("--keep", action="store_true", help="add new inputs to the corpus")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one input through the target and end")
    arguments = parser.parse_args()
    if arguments.replay is not None:
        if len(arguments.targets) != 1:
            parser.error("--replay: of which one target?")
        importlib.import_module(f"tests.fuzz.targets.{arguments.targets[0]}").fuzz(arguments.replay.read_bytes())
        return 0
    if importlib.util.find_spec("atheris") is None:
        print("left out, because atheris is not installed (it has wheels for Linux on x86-64 alone): fuzzing")
        return 0
    waiting = list(arguments.targets or TARGETS)
    running: dict[str, subprocess.Popen[str]] = {}
    failed = []
    while waiting or running:
        while waiting and len(running) < arguments.jobs:
            running[waiting[0]] = _start(waiting[0], arguments.seconds)
            waiting.pop(0)
        time.sleep(0.2)
        for target, process in list(running.items()):
            if process.poll() is not None:
                del running[target]
                if not _report(target, process):
                    failed.append(target)
                elif arguments.keep:
                    _keep(target)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def _start(target: str, seconds: int) -> subprocess.Popen[str]:
    work = FOUND / target
    shutil.rmtree(work, ignore_errors=True)
    (work / "new").mkdir(parents=True)
    (work / "seeds").mkdir()
    (CORPUS / target).mkdir(parents=True, exist_ok=True)
    options = [f"-max_total_time={seconds}", f"-max_len={MAX_INPUT}", f"-rss_limit_mb={MEMORY_MB}"]
    options += [f"-timeout={ONE_INPUT_SECONDS}", f"-artifact_prefix={work}/", "-print_final_stats=1"]
    # libFuzzer writes new inputs into the first directory.
    directories = [str(work / "new"), str(CORPUS / target), str(work / "seeds")]
    command = [sys.executable, "-m", "tests.fuzz.one", target, str(work / "seeds"), *options, *directories]
    with (work / "log").open("w") as log:
        return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True)


def _report(target: str, process: subprocess.Popen[str]) -> bool:
    log = (FOUND / target / "log").read_text(errors="replace")
    runs = re.search(r"stat::number_of_executed_units:\s*(\d+)", log)
    coverage = re.findall(r"cov: (\d+) ft: (\d+)", log)
    if process.returncode == 0 and runs is not None:
        reached = f", {coverage[-1][0]} edges" if coverage else ""
        print(f"{target:16} {int(runs.group(1)):9,} runs{reached}", flush=True)
        return True
    print(f"{target:16} failed, see {FOUND / target}", flush=True)
    print(log[-4000:], file=sys.stderr)
    return False


def _keep(target: str) -> None:
    """libFuzzer writes down what reached something new; the small ones say the same in less."""
    new = sorted((FOUND / target / "new").iterdir(), key=lambda path: path.stat().st_size)
    for path in new[:MAX_KEPT]:
        shutil.copy(path, CORPUS / target / path.name)


if __name__ == "__main__":
    sys.exit(main())
