"""``python -m tests.fuzz``: see the package."""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
CORPUS: Final = HERE / "corpus"
REPOSITORY: Final = HERE.parents[1]
FOUND: Final = REPOSITORY / "build" / "fuzz"
NAMES: Final = (
    *("decoders", "configuration", "vl1-leaf", "vl1-root", "vl2-member", "vl2-controller"),
    *("controller", "netstack", "channel", "ring"),
)
LONGEST: Final = 4096
"""Bytes of an input."""
KEPT: Final = 40
"""Inputs for each target in the repository."""
KEPT_LENGTH: Final = 600


def main() -> int:
    """Fuzz; 1 if something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz decoders and engines.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"some of {', '.join(NAMES)}; none: all")
    parser.add_argument("--seconds", type=int, default=20, help="for each target; together: in all [20]")
    parser.add_argument("--jobs", type=int, default=2, help="targets at a time [2]")
    parser.add_argument("--together", action="store_true", help="all targets in one process, whose start they share")
    parser.add_argument("--merge", action="store_true", help="choose the corpus of the repository anew")
    parser.add_argument("--one", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        _fuzz_here(*chosen.one)
        return 0
    names = chosen.targets or list(NAMES)
    if unknown := set(names) - set(NAMES):
        parser.error(f"no target {unknown.pop()!r}; there are {', '.join(NAMES)}")
    if importlib.util.find_spec("atheris") is None:
        print(f"fuzzing left out: there is no atheris for Python {sys.version_info[0]}.{sys.version_info[1]} here")
        return 0
    if chosen.merge:
        for name in names:
            _merge(name)
        return 0
    if chosen.together:
        return int(not _fuzz("together", chosen.seconds, _corpus_of_all()))
    with ThreadPoolExecutor(chosen.jobs) as jobs:
        results = list(jobs.map(lambda name: _fuzz(name, chosen.seconds, CORPUS / name), names))
    return int(not all(results))


def _corpus_of_all() -> Path:
    """Every target's corpus, with a byte before each input that says whose it is."""
    folder = FOUND / "corpus-of-all"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, name in enumerate(NAMES):
        for file in (CORPUS / name).iterdir():
            (folder / f"{name}-{file.name}").write_bytes(bytes((number,)) + file.read_bytes())
    return folder


def _command(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.fuzz", "--one", name, *arguments]


def _fuzz(name: str, seconds: int, corpus: Path) -> bool:
    found = FOUND / name
    found.mkdir(parents=True, exist_ok=True)
    corpus.mkdir(parents=True, exist_ok=True)
    limits = (f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=1024", f"-max_len={LONGEST}")
    started = time.monotonic()
    done = subprocess.run(
        _command(name, str(found), str(corpus), *limits, f"-artifact_prefix={found}-", "-print_final_stats=1"),
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )
    lines = done.stderr.splitlines()
    runs = next((line.split()[-1] for line in lines if "number_of_executed_units" in line), "?")
    verdict = "nothing found" if done.returncode == 0 else f"FAILED, see {found}-*"
    print(f"{name:16}{runs:>10} runs in {time.monotonic() - started:5.0f} s: {verdict}", flush=True)
    if done.returncode:
        print("\n".join([*done.stdout.splitlines()[-20:], *lines[-20:]]), flush=True)
    return done.returncode == 0


def _merge(name: str) -> None:
    """The smallest inputs that reach what all of those in the repository and those found since reach."""
    fresh, kept = FOUND / f"{name}-merged", CORPUS / name
    shutil.rmtree(fresh, ignore_errors=True)
    for folder in (fresh, FOUND / name):
        folder.mkdir(parents=True, exist_ok=True)
    command = _command(name, "-merge=1", f"-max_len={LONGEST}", str(fresh), str(kept), str(FOUND / name))
    subprocess.run(command, capture_output=True, cwd=REPOSITORY, check=True)
    for old in kept.iterdir():
        old.unlink()
    chosen = sorted(fresh.iterdir(), key=lambda file: (file.stat().st_size, file.name))
    for file in [file for file in chosen if file.stat().st_size <= KEPT_LENGTH][-KEPT:]:
        shutil.copy(file, kept / file.name[:16])
    print(f"{name:16}{len(chosen)} inputs, of which {len(list(kept.iterdir()))} are kept")


def _fuzz_here(name: str, *arguments: str) -> None:
    import atheris

    with atheris.instrument_imports(include=["ztnode"]):
        from tests.fuzz.targets import TARGETS

    def together(data: bytes) -> None:
        if data:
            TARGETS[NAMES[data[0] % len(NAMES)]](data[1:])

    target: Callable[[bytes], None] = together if name == "together" else TARGETS[name]
    atheris.Setup([name, *arguments], target)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
