"""CPU, memory, disk, network and GPU use of a trial's machine, in the trial's run."""

import logging

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

_INTERVAL = 5  # seconds between samples
_logger = logging.getLogger(__name__)


class SystemMetrics:
    """Samples this machine in a thread until it is stopped. Its failure is a log line, never a trial's.

    MLflow's `start_run(log_system_metrics=True)` is tied to the active run; the monitor behind it is not.
    """

    def __init__(self, run_id: str, uri: str) -> None:
        self._monitor: SystemMetricsMonitor | None = None
        try:
            self._monitor = SystemMetricsMonitor(run_id, sampling_interval=_INTERVAL, tracking_uri=uri)
            self._monitor.start()
        except Exception as error:  # a driver or a sensor that MLflow did not expect
            _logger.warning("no system metrics for run %s: %s", run_id, error)

    def stop(self) -> None:
        """Ends the thread and writes what it collected."""
        if self._monitor is not None:
            self._monitor.finish()
