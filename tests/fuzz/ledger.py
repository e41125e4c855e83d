"""What a fuzzing process is doing, in a file that outlives it however it ends."""

import mmap
import struct
import time
from pathlib import Path

MAX_INPUT = 16 * 1024  # bytes
_NUMBERS = struct.Struct("<4QII")  # accepted, refused, started and slowest in ns, two lengths
_CURRENT = _NUMBERS.size
_SLOWEST = _CURRENT + MAX_INPUT


class Ledger:
    """Counts and inputs shared between the process that feeds and the one that watches it.

    Attributes:
        accepted, refused: inputs that were.
        started: processor time of the process when the current input was fed, in ns; 0 between two inputs.
        slowest: most processor time that an input took, in ns.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_SLOWEST + MAX_INPUT))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        self.read()

    def read(self) -> None:
        """Takes over what the other process has written."""
        numbers = _NUMBERS.unpack_from(self._memory)
        self.accepted, self.refused, self.started, self.slowest, self._length, self._slowest_length = numbers

    def begin(self, data: bytes) -> None:
        """An input is about to be fed."""
        self._memory[_CURRENT : _CURRENT + len(data)] = data
        self._length = len(data)
        self.started = time.process_time_ns()
        self._write()

    def end(self, accepted: bool) -> None:
        """The input was accepted or refused."""
        taken = time.process_time_ns() - self.started
        if taken > self.slowest:
            self.slowest, self._slowest_length = taken, self._length
            self._memory[_SLOWEST : _SLOWEST + self._length] = self.current
        self.accepted, self.refused = self.accepted + accepted, self.refused + (not accepted)
        self.started = 0
        self._write()

    @property
    def current(self) -> bytes:
        """The input that was fed last."""
        return self._memory[_CURRENT : _CURRENT + self._length]

    @property
    def slowest_input(self) -> bytes:
        """The input that took longest."""
        return self._memory[_SLOWEST : _SLOWEST + self._slowest_length]

    def _write(self) -> None:
        _NUMBERS.pack_into(
            self._memory,
            0,
            self.accepted,
            self.refused,
            self.started,
            self.slowest,
            self._length,
            self._slowest_length,
        )
