"""A graph that answers, computed by OpenVINO where it is installed: on a CPU, 0.58 of TensorFlow's time for a picture.

Travels with the registered model. The extra `openvino` is imported only when a graph is compiled; without it, and for
what it cannot compute, TensorFlow answers.
"""

import functools
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import tensorflow as tf

_TELEMETRY = "openvino_telemetry"
_OPTIONS = {
    "PERFORMANCE_HINT": "LATENCY",  # all cores for each call
    # Its own choice is 16 bits where the processor has them: other numbers than those that were scored.
    "INFERENCE_PRECISION_HINT": "f32",
    "ENABLE_CPU_PINNING": False,  # two processes would have their threads on the same cores
}
_starting = Lock()
_log = logging.getLogger(__name__)


def compiled_by_openvino(traced: Callable[[], Any]) -> Callable[[np.ndarray], np.ndarray] | None:
    """Compiles a graph for the CPU.

    Args:
        traced: gives TensorFlow's concrete function of one tensor of uint8, whose weights are constants, in float32;
            called only where OpenVINO is installed, because to trace a model takes a second.

    Returns:
        what takes the graph's input and returns its output; threads that call it at once wait for one another. None
        where OpenVINO is missing, or cannot compute the graph: the log says why.
    """
    try:
        with _starting:
            core = _core()
        if core is None:
            return None
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "graph.pb"
            file.write_bytes(traced().graph.as_graph_def().SerializeToString())
            request = core.compile_model(core.read_model(file), "CPU", _OPTIONS | _threads()).create_infer_request()
    except Exception as error:  # whatever is wrong with it, the model can answer without
        reason = str(error).strip().partition("\n")[0]
        _log.warning("OpenVINO cannot compute this model (%s: %s); TensorFlow does.", type(error).__name__, reason)
        return None
    alone = Lock()  # a request computes one answer at a time, and has all cores for it

    def computed(given: np.ndarray) -> np.ndarray:
        if given.dtype != np.uint8:  # it would take their remainders
            raise TypeError(f"images must be uint8, got {given.dtype}")
        with alone:
            found: np.ndarray = request.infer([np.ascontiguousarray(given)], share_inputs=True)[0]
            return found

    return computed


@functools.cache
def _core() -> Any:
    """OpenVINO's core, one for as long as the process lives; None where OpenVINO is not installed.

    On processors with AMX it gives the thread that first compiles a stack of its own for signals, which it frees with
    the core, perhaps from another thread: the next signal then ends the process.
    """
    openvino = _openvino()
    return None if openvino is None else openvino.Core()


def _openvino() -> Any:
    """The package, or None where it is not installed.

    By itself it would tell Google Analytics, in a process that it forks, that it was imported. It can do without its
    package for that, and is made to.
    """
    if "openvino" in sys.modules:
        return sys.modules["openvino"]
    before = {name: sys.modules[name] for name in (_TELEMETRY,) if name in sys.modules}
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # "cannot be imported"
    try:
        import openvino
    except ImportError:
        return None
    finally:
        del sys.modules[_TELEMETRY]
        sys.modules.update(before)
    return openvino


def _threads() -> dict[str, int]:
    """As many threads as TensorFlow was given; where it was given no number, OpenVINO's own choice."""
    given = os.environ.get("TF_NUM_INTRAOP_THREADS", "")
    number = tf.config.threading.get_intra_op_parallelism_threads() or (int(given) if given.isdecimal() else 0)
    return {"INFERENCE_NUM_THREADS": min(number, os.cpu_count() or 1)} if number else {}
