"""`python -m tests.fuzz`: feeds generated files to the reader; `--replay FILE` feeds one that was found."""

import argparse
import hashlib
import importlib.util
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.fuzz import documents, faults, pictures
from tests.fuzz.ledger import Ledger
from tests.fuzz.targets import TARGETS

HANG = 5  # seconds of processor time for one input: on a busy machine the clock says little
_STALL = 60  # seconds on the clock without an answer, for whatever waits instead of working
_POLL = 0.2  # seconds
_SEEDS = {"annotations": documents.seeds, "images": pictures.seeds}


class Feeder:
    """A process that feeds one kind of input, and what became of it.

    Attributes:
        kind: one of `TARGETS`.
        finding: what went wrong; None so far.
    """

    def __init__(self, kind: str, folder: Path, fault: str, options: list[str]) -> None:
        self.kind = kind
        self.finding: str | None = None
        corpus = folder / "corpus"
        corpus.mkdir(parents=True)
        for number, data in enumerate(_SEEDS[kind]()):
            (corpus / f"seed{number:02d}").write_bytes(data)
        self.ledger = Ledger(folder / "ledger")
        self._seen, self._seen_at = 0, time.monotonic()
        self._log = folder / "log"
        with self._log.open("wb") as log:
            command = [sys.executable, "-m", "tests.fuzz.child", kind, str(folder), fault, *options]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def watch(self) -> bool:
        """Whether it still feeds; ends it where one input takes too long."""
        self.ledger.read()
        code = self.process.poll()
        if code is None:
            self.finding = self._waits_for()
            if self.finding:
                self.process.kill()
                self.process.wait()
            return self.finding is None
        if code:
            self.finding = self._cause(code)
        elif self.ledger.slowest > HANG * 10**9:
            self.finding = f"an answer after {self.ledger.slowest / 1e9:.1f} s only"
        return False

    def _waits_for(self) -> str | None:
        fed, now = self.ledger.accepted + self.ledger.refused, time.monotonic()
        if fed != self._seen:
            self._seen, self._seen_at = fed, now
        try:
            spent = sum(psutil.Process(self.process.pid).cpu_times()[:2])
        except psutil.Error:  # it has just ended
            return None
        if self.ledger.started and spent - self.ledger.started / 1e9 > HANG:
            return f"no answer within {HANG} s"
        if now - self._seen_at > _STALL:
            return f"no input answered within {_STALL} s\n{self._log.read_text(errors='replace')[-2000:]}"
        return None

    def _cause(self, code: int) -> str:
        text = self._log.read_text(errors="replace")
        trace = re.search(r"=== Uncaught Python exception: ===\n(.+?)\n==", text, re.S)
        if trace:
            return trace[1].strip()
        if "out-of-memory" in text:
            return "too much memory"
        if "deadly signal" in text:
            return "a crash in C code"
        died = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"{died}\n{text[-2000:]}"

    def summary(self) -> str:
        """One line with the counts."""
        book = self.ledger
        covered = re.findall(r"cov: (\d+)", self._log.read_text(errors="replace")) or ["0"]
        return (
            f"{self.kind}: {book.accepted + book.refused:,} fed, {book.accepted:,} accepted, {book.refused:,} refused; "
            f"coverage {covered[0]} → {covered[-1]} branches; slowest {book.slowest / 1e9:.2f} s"
        )


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; 0: nothing found, 1: something was found."""
    options = _options().parse_args(arguments)
    if options.replay:
        kind = options.replay.name.split("-")[0]
        print("accepted" if TARGETS[kind](options.replay.read_bytes()) else "refused")
        return 0
    if importlib.util.find_spec("atheris") is None:
        sys.exit("The fuzzer needs atheris; pip install -e '.[dev]'.")
    print(f"seed {options.seed}, {options.inputs:,} inputs", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        feeders = _feed(options, Path(folder))
        for feeder in feeders:
            print(feeder.summary())
        found = [_saved(feeder, options) for feeder in feeders if feeder.finding]
    fed = sum(feeder.ledger.accepted + feeder.ledger.refused for feeder in feeders)
    print(f"{fed:,} inputs in {time.monotonic() - began:.0f} s, {len(found)} findings")
    for lines in found:
        print(lines)
    return 1 if found else 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="annotation files and images, half of each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=0, help="end earlier; 0: no limit")
    parser.add_argument("--findings", type=Path, default=Path("fuzz_findings"), help="where inputs are saved")
    parser.add_argument("--kinds", nargs="+", choices=sorted(TARGETS), default=sorted(TARGETS))
    parser.add_argument("--fault", choices=sorted(faults.FAULTS), default="", help="plant a fault that should be found")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="feed one saved input instead")
    return parser


def _feed(options: argparse.Namespace, folder: Path) -> list[Feeder]:
    share = -(-options.inputs // len(options.kinds))
    limits = [f"-runs={share}", f"-seed={options.seed}", f"-max_total_time={options.seconds}"]
    feeders = [Feeder(kind, folder / kind, options.fault, limits) for kind in options.kinds]
    try:
        active = feeders
        while active := [feeder for feeder in active if feeder.watch()]:
            time.sleep(_POLL)
    finally:
        for feeder in feeders:
            feeder.process.kill()
            feeder.process.wait()
    return feeders


def _saved(feeder: Feeder, options: argparse.Namespace) -> str:
    book = feeder.ledger
    data = book.current if feeder.process.returncode else book.slowest_input
    options.findings.mkdir(parents=True, exist_ok=True)
    path = options.findings / f"{feeder.kind}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    return f"{feeder.kind}: {feeder.finding}\n  replay: python -m tests.fuzz --replay {path}"


if __name__ == "__main__":
    sys.exit(main())
