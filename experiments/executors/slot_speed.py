"""Decides by measuring how many trials at a time train most images per second, and remembers it per machine."""

import hashlib
import json
import platform
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.executors.base import Executor
from experiments.executors.slots import Division, Machine, Share
from experiments.jobs.environment import installed_versions
from experiments.jobs.memory_shortage import with_remedy
from experiments.jobs.messages import Job, JobEnded, JobReported
from experiments.jobs.one_job import JobFailed
from seg.config import TrainConfig
from seg.data.manifest import Manifest
from seg.errors import UserError

SECONDS = 5.0
"""Of training that count, all jobs of a division at the same time."""

WORTH_IT = 1.05
"""More trials at a time must train so many times the images of fewer: each has its start and its memory."""

_FORMAT = 2


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What was measured of a division.

    Attributes:
        slots, share: the division.
        images_per_second: of training, all slots together; 0 if their jobs failed.
        start_seconds: from the start of a trial's process to its third step, the longest of the slots; what a fork
            server imports once is not in it.
        model_bytes, checkpoint_bytes: of one trial, as `StepSpeed` has them.
        reason: why the jobs failed.
    """

    slots: int
    share: Share
    images_per_second: float
    start_seconds: float = 0.0
    model_bytes: int = 0
    checkpoint_bytes: int = 0
    reason: str = ""

    @property
    def division(self) -> Division:
        return Division(slots=self.slots, share=self.share)


def fastest(
    divisions: Sequence[Division],
    config: TrainConfig,
    manifest: Manifest,
    open_executor: Callable[[Division], AbstractContextManager[Executor]],
    folder: Path,
) -> Speed:
    """Measures divisions, from few slots on, until more slots train no more images per second.

    Args:
        divisions: one at least, in order of their slots.
        config: what to train: the study's largest model.
        manifest: the dataset.
        open_executor: an executor whose slots are the division.
        folder: for the jobs' logs.

    Raises:
        UserError: if the configuration is refused.
        JobFailed: if the first division's jobs fail.
    """
    best: Speed | None = None
    for division in divisions:
        with open_executor(division) as executor:
            found = _measure(executor, division, config, manifest, folder)
        shown = f"{found.images_per_second:.1f} images per second" if not found.reason else f"failed: {found.reason}"
        print(f"measured: {describe(division)}: {shown}", file=sys.stderr)
        if best is None and found.reason:
            raise JobFailed(f"the speed of training could not be measured: {found.reason} ({folder})")
        if best is not None and found.images_per_second < best.images_per_second * WORTH_IT:
            break
        best = found
    assert best is not None
    return best


def _measure(executor: Executor, division: Division, config: TrainConfig, manifest: Manifest, folder: Path) -> Speed:
    """Starts a job per slot, lets all begin once all are ready, and adds up what they trained."""
    arguments = {"config": config.as_dict(), "dataset": str(manifest.folder.absolute()), "seconds": SECONDS}
    names = [f"speed {number + 1} of {division.slots}" for number in range(division.slots)]
    for name in names:
        place = folder.absolute() / name.replace(" ", "_")
        executor.submit(Job(name=name, task="speed", folder=str(place), arguments=arguments))
    waiting, ended = list[Job](), list[JobEnded]()
    while len(ended) < len(names):
        for event in executor.wait(1.0):
            if isinstance(event, JobReported):
                waiting.append(event.job)
            else:
                ended.append(event)
        if waiting and len(waiting) + len(ended) == len(names):
            for job in waiting:
                executor.answer(job, True)
            waiting.clear()
    return _sum(division, ended, config.batch_size)


def _sum(division: Division, ended: Sequence[JobEnded], batch_size: int) -> Speed:
    for failed in (each for each in ended if each.result is None):
        if failed.user_error:
            raise UserError(failed.reason.removeprefix("UserError: "))
        reason = with_remedy(failed.reason, failed.traceback, batch_size)
        return Speed(slots=division.slots, share=division.share, images_per_second=0.0, reason=reason)
    results = [each.result for each in ended if each.result is not None]
    return Speed(
        slots=division.slots,
        share=division.share,
        images_per_second=sum(result["images_per_second"] for result in results),
        start_seconds=max(result["start_seconds"] for result in results),
        model_bytes=results[0]["model_bytes"],
        checkpoint_bytes=results[0]["checkpoint_bytes"],
    )


def describe(division: Division) -> str:
    """`2 trials at a time, 4 cores each`."""
    share = division.share
    each = [f"{share.gpus} GPU{'s' * (share.gpus > 1)}"] if share.gpus else []
    each.append(f"{share.cpus} core{'s' * (share.cpus > 1)}")
    if division.slots == 1:
        return f"1 trial at a time, {' and '.join(each)}"
    return f"{division.slots} trials at a time, {' and '.join(each)} each"


def key_of(
    divisions: Sequence[Division],
    config: TrainConfig,
    manifest: Manifest,
    machines: Sequence[Machine],
    gpus: Sequence[str],
) -> str:
    """Names a measurement: equal where it would come out the same.

    Args:
        gpus: names of this machine's GPUs.
    """
    settings = {name: value for name, value in config.as_dict().items() if name not in ("seed", "epochs", "patience")}
    what = {
        "format": _FORMAT,
        "divisions": [asdict(division) for division in divisions],
        "config": settings,
        "image_size": manifest.image_size,
        "machines": [asdict(machine) for machine in machines],
        "gpus": list(gpus),
        "node": platform.node(),
        "packages": {name: found for name, found in installed_versions().items() if name in ("tensorflow", "keras")},
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:20]


def remembered(path: Path) -> Speed | None:
    """What `remember` wrote; None if there is nothing of use."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Speed(**content | {"share": Share(**content["share"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def remember(path: Path, speed: Speed) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial.{path.name}")
    partial.write_text(json.dumps(asdict(speed), indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
