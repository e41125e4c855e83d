"""Tasks without TensorFlow: what a job's process can do to an executor, chosen by the job's arguments.

A `train` job carries either `behaviour` (the executor's tests) or `config` (the driver's tests), and then the
`behaviour.json` beside its study's trials, if any, maps a trial's folder name, up to its run, to what it shall do.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.jobs.messages import Job, epoch_picture
from seg.errors import UserError
from seg.training.result import EpochReport, ModelCost, TrainResult


def dice_of(config: dict[str, Any]) -> float:
    """The made-up final val_dice of a configuration: wider is better, bce_dice > dice > bce, seeds differ a little.

    A learning rate above 0.001 is better, too.
    """
    loss = 0.1 * ["bce", "dice", "bce_dice"].index(config["loss"])
    rate = config.get("learning_rate", 0.001) - 0.001
    return 0.5 + loss + config["filters"] / 1000 + config["seed"] / 1e4 + rate


def cost_of(config: dict[str, Any]) -> ModelCost:
    """The made-up cost of a configuration: wider is larger and slower, and the loss does not matter."""
    filters = config["filters"]
    return ModelCost(parameters=1, multiply_adds=1000 * filters, latency_ms=filters / 2, images_per_second=10.0)


def run(job: Job, report: Callable[[EpochReport], bool]) -> dict[str, Any]:
    print("library noise on stdout")
    print("library noise on stderr", file=sys.stderr)
    behaviour = job.arguments.get("behaviour") or _planned(Path(job.folder))
    _misbehave(behaviour, Path(job.folder), job.arguments.get("garbage", "not a message"), job.arguments.get("dataset"))
    config = job.arguments.get("config", {"loss": "bce", "filters": 8, "seed": 0, "epochs": 3})
    return _train(config, behaviour, Path(job.folder), report, job.arguments.get("checkpoints"))


def _planned(folder: Path) -> str:
    plan = folder.parent / "behaviour.json"
    return json.loads(plan.read_text()).get(folder.name.rpartition("_")[0], "") if plan.exists() else ""


def _misbehave(behaviour: str, folder: Path, garbage: str, dataset: str | None) -> None:
    match behaviour:
        case "raise":
            raise RuntimeError("the task went wrong\nsecond line")
        case "user_error":
            raise UserError("batch_size must be at least 1, got 0.")
        case "memory_error":
            raise MemoryError
        case "sigkill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "sigkill_once":
            if not (folder / "killed").exists():
                (folder / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exit":
            raise SystemExit(7)
        case "garbage":
            os.write(_writing_pipe(), garbage.encode() + b"\n")
            time.sleep(60)
        case "hang":
            (folder / "pid").write_text(str(os.getpid()))
            time.sleep(60)
        case "ignore_sigterm":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            (folder / "pid").write_text(str(os.getpid()))
            time.sleep(60)
        case "dataset":
            with (folder / "dataset.txt").open("a") as seen:
                seen.write(f"{dataset}\n")
        case "child":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            (folder / "pid").write_text(str(child.pid))


def _writing_pipe() -> int:
    return int(sys.argv[3])


def _train(
    config: dict[str, Any],
    behaviour: str,
    folder: Path,
    report: Callable[[EpochReport], bool],
    checkpoints: str | None,
) -> dict[str, Any]:
    final, stop_reason = dice_of(config), "epochs"
    history = _restore(checkpoints)
    verdicts = [report(epoch) for epoch in history]
    goes_on = all(verdicts)
    for epoch in range(len(history) + 1, config["epochs"] + 1):
        if not goes_on:
            break
        if behaviour in ("slow", "timed"):
            time.sleep(0.3)
        if behaviour.startswith("waits_for:") and epoch == 4:
            while not Path(behaviour.removeprefix("waits_for:")).exists():
                time.sleep(0.05)
        if behaviour == f"sigkill_in_{epoch}" and not (folder / "killed").exists():
            (folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if behaviour == f"picture_in_{epoch}":
            epoch_picture(folder, epoch).parent.mkdir()
            epoch_picture(folder, epoch).write_bytes(b"picture")
        with (folder / "epochs.txt").open("a") as trained:
            trained.write(f"{epoch}\n")
        val_dice = float("nan") if behaviour == "nan" else final * epoch / config["epochs"]
        history.append(
            EpochReport(
                epoch=epoch, train_loss=1.0, val_loss=1.0, val_dice=val_dice, images_per_second=10.0, seconds=0.1
            )
        )
        _keep(checkpoints, history)
        started = time.time()
        goes_on = report(history[-1])
        if behaviour == "timed":
            with (folder / "waits.txt").open("a") as waits:
                waits.write(f"{started} {time.time() - started}\n")
    if not goes_on:
        stop_reason = "pruned"
    (folder / "model.keras").write_text("weights")
    if behaviour == "finishes_late":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (folder / "pid").write_text(str(os.getpid()))
        time.sleep(0.2)
    result = TrainResult(
        stop_reason=stop_reason,
        best_epoch=len(history),
        val_dice=float("nan") if behaviour == "nan_at_end" else history[-1].val_dice,
        parameters=1,
        replicas=1,
        batch_size=10,
        model="model.keras",
        history=tuple(history),
    )
    return asdict(result) | {"cost": asdict(cost_of(config))}


def _restore(checkpoints: str | None) -> list[EpochReport]:
    path = Path(checkpoints or "") / "history.json"
    return [EpochReport(**report) for report in json.loads(path.read_text())] if checkpoints and path.exists() else []


def _keep(checkpoints: str | None, history: list[EpochReport]) -> None:
    if checkpoints:
        Path(checkpoints).mkdir(exist_ok=True)
        partial = Path(checkpoints) / "history.partial"
        partial.write_text(json.dumps([asdict(report) for report in history]))
        partial.replace(Path(checkpoints) / "history.json")
