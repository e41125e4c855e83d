"""CPU, memory, disk, network and GPU use of a trial's machine, in the trial's run."""

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

from mlflow.environment_variables import (
    MLFLOW_SYSTEM_METRICS_NODE_ID,
    MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING,
    MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL,
)
from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

_INTERVAL = 5  # seconds between samples
_logger = logging.getLogger(__name__)


class SystemMetrics:
    """Samples this machine in a thread until it is stopped. Its failure is a log line, never a trial's.

    With MLflow's sensors, settings and names. Its own monitor asks the server for the run at every sample, and ends for
    good where that does not answer.

    Args:
        publish: takes the numbers of a sample, by name, and its step.
    """

    def __init__(self, publish: Callable[[Mapping[str, float], int], None]) -> None:
        self._publish = publish
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            sensors = _sensors()
            step = 0
            while self._sample(sensors):
                self._publish(_aggregate(sensors), step)
                step += 1
        except Exception as error:  # a driver or a sensor that MLflow did not expect
            _logger.warning("no system metrics: %s", error)

    def _sample(self, sensors: list[BaseMetricsMonitor]) -> bool:
        """Reads the sensors as often as one measurement takes; False once it is stopped."""
        for _ in range(MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING.get() or 1):
            for sensor in sensors:
                sensor.collect_metrics()
            if self._stopped.wait(MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or _INTERVAL):
                return False
        return True


def _sensors() -> list[BaseMetricsMonitor]:
    found: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    for gpus in (GPUMonitor, ROCMMonitor):
        with suppress(Exception):  # there is none, or no library to ask it
            found.append(gpus())
            break
    return found


def _aggregate(sensors: list[BaseMetricsMonitor]) -> dict[str, float]:
    node = MLFLOW_SYSTEM_METRICS_NODE_ID.get()
    prefix = f"system/{node}/" if node else "system/"
    metrics: dict[str, float] = {}
    for sensor in sensors:
        metrics |= {prefix + name: value for name, value in sensor.aggregate_metrics().items()}
        sensor.clear_metrics()
    return metrics
