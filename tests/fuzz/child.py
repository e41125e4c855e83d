"""The process that feeds one kind of input until it has fed enough, or dies of one: started by `tests.fuzz`."""

import sys
from pathlib import Path
from random import Random

import atheris
import cv2

with atheris.instrument_imports(include=["seg"]):
    from tests.fuzz import documents, faults, ledger, pictures, targets

MEMORY = 1024  # MB
_MUTATE = {"annotations": documents.mutate, "images": pictures.mutate}


def main(kind: str, folder: Path, fault: str, *options: str) -> None:
    """Feeds inputs of a kind; does not return.

    Args:
        kind: one of `TARGETS`.
        folder: holds the corpus in `corpus` and the ledger in `ledger`.
        fault: to plant; empty for none.
        options: for libFuzzer.
    """
    cv2.setNumThreads(1)
    if fault:
        faults.plant(fault)
    book = ledger.Ledger(folder / "ledger")

    def feed(data: bytes) -> None:
        book.begin(data)
        book.end(targets.TARGETS[kind](data))

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        return _MUTATE[kind](bytes(data), most, Random(seed), lambda old, size: bytes(atheris.Mutate(old, size)))

    limits = [
        f"-max_len={ledger.MAX_INPUT}",
        "-len_control=0",
        "-mutate_depth=2",
        f"-rss_limit_mb={MEMORY}",
        "-timeout=3600",
    ]
    arguments = [sys.argv[0], *limits, "-detect_leaks=0", f"-artifact_prefix={folder}/", *options]
    atheris.Setup([*arguments, str(folder / "corpus")], feed, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
