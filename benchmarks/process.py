"""`ContenderProcess`: a contender in a process of its own, as the harness sees it."""

import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

_PROJECT = Path(__file__).parents[1]
# Each library has a variable of its own for the number of its threads.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


class ContenderFailed(Exception):
    """A contender died, took too long, or raised."""


class ContenderProcess:
    """Starts to prepare a contender; `receive` waits until it is ready, `measure` asks for a value.

    Args:
        work, settings, environment: as in `Contender`.
        threads: cores that the process may use.
        clock: `wall` or `processor`.
        log: what the process writes on stdout and stderr.
    """

    def __init__(
        self,
        work: str,
        settings: Mapping[str, Any],
        environment: Mapping[str, str],
        threads: int,
        clock: str,
        log: Path,
    ) -> None:
        self._log = log
        self._buffer = b""
        path = os.pathsep.join(filter(None, [str(_PROJECT), os.environ.get("PYTHONPATH", "")]))
        variables = os.environ | dict.fromkeys(_THREADS, str(threads)) | {"PYTHONPATH": path} | dict(environment)
        with log.open("wb") as written:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.contender", work, json.dumps(dict(settings)), str(threads), clock],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=written,
                env=variables,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)

    def measure(self, timeout: float) -> dict[str, Any]:
        """One measurement.

        Raises:
            ContenderFailed: if there is none within `timeout` seconds.
        """
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(b"measure\n")
            self._process.stdin.flush()
        return self.receive(timeout)

    def receive(self, timeout: float) -> dict[str, Any]:
        """The next thing that the process says.

        Raises:
            ContenderFailed: if it says nothing within `timeout` seconds, or that it failed.
        """
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(timeout):
                    raise ContenderFailed(f"took more than {timeout:.0f} s")
                chunk = os.read(self._process.stdout.fileno(), 65536)
                if not chunk:
                    raise ContenderFailed(f"its process died ({self._process.wait()}); see {self._log.name}")
                self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            raise ContenderFailed(f"{message['error']}; see {self._log.name}")
        return message

    def close(self) -> None:
        """Ends the process and those that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
