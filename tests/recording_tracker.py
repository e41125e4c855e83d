"""A tracker that writes its calls to a file, so that a test sees those of a driver that was killed too."""

import json
from pathlib import Path
from typing import Any


class RecordingTracker:
    def __init__(self, path: Path) -> None:
        self.path = path

    def _record(self, call: str, run_id: str, **details: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"call": call, "run_id": run_id, **details}) + "\n")

    def start_study(self, study, parameters, manifest, run_id=None, adopt=None, key=None):
        run_id = run_id or adopt or f"run-{study}"
        self._record("start_study", run_id, parameters=parameters)
        return run_id

    def start_trial(self, parent, study, trial, config, manifest):
        run_id = f"{parent}-{trial}"
        self._record("start_trial", run_id, config=config.as_dict())
        return run_id

    def resume_trial(self, parent, study, trial, config, manifest, run_id):
        if run_id is None and not (run_id := self._started(f"{parent}-{trial}")):
            return self.start_trial(parent, study, trial, config, manifest), 0
        self._record("resume_trial", run_id)
        logged = [call["epoch"] for call in self.calls("log_epoch") if call["run_id"] == run_id]
        return run_id, max(logged, default=0)

    def _started(self, run_id):
        return next((call["run_id"] for call in self.calls("start_trial") if call["run_id"] == run_id), None)

    def log_epoch(self, run_id, report):
        self._record("log_epoch", run_id, epoch=report.epoch)

    def log_image(self, run_id, path, key, step):
        self._record("log_image", run_id, file=Path(path).name, key=key, step=step)

    def log_metrics(self, run_id, metrics):
        self._record("log_metrics", run_id, metrics=metrics)

    def log_tags(self, run_id, tags):
        self._record("log_tags", run_id, tags=tags)

    def log_folder(self, run_id, folder, path=""):
        self._record("log_folder", run_id, files=sorted(file.name for file in Path(folder).iterdir()))

    def log_text(self, run_id, text, path):
        self._record("log_text", run_id, path=path)

    def log_figure(self, run_id, figure, path):
        self._record("log_figure", run_id, path=path)

    def end(self, run_id, state, reason="", traceback=""):
        self._record("end", run_id, state=state, reason=reason, traceback=traceback)

    def calls(self, call: str | None = None) -> list[dict[str, Any]]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [entry for entry in map(json.loads, lines) if call in (None, entry["call"])]

    def states(self) -> dict[str, str]:
        """How each run stands: `running`, or its last `end`."""
        states: dict[str, str] = {}
        for entry in self.calls():
            if entry["call"] in ("start_study", "start_trial", "resume_trial"):
                states[entry["run_id"]] = "running"
            elif entry["call"] == "end":
                states[entry["run_id"]] = entry["state"]
        return states
