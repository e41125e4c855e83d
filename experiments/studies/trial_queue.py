"""What a driver trains next: a trial that waits, else what nobody trained yet. Several drivers share one budget."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.command_line.progress import Progress
from experiments.storage.stored_study import STATES, TrialRow
from experiments.storage.study_store import StudyStore
from experiments.studies.search import SearchSpace, fingerprint
from seg.config import TrainConfig

_MAX_REPEATS = 50
_LOOK_AGAIN_SECONDS = 2.0


@dataclass(frozen=True)
class Taken:
    """A trial that this driver now runs.

    Attributes:
        row: the trial.
        resumed: whether it was begun before, in this command or another, by this driver or another.
    """

    row: TrialRow
    resumed: bool


class TrialQueue:
    """The trials that one driver takes from a study, up to the total of the study.

    Args:
        store: the study in Optuna's storage.
        space: what is searched.
        trials: the total of finished and pruned trials, over all drivers and commands; of a grid, those of its arms.
        configs: what a grid trains, in this order; None: `space.grid(trials)`.
        progress: tells a person.
    """

    def __init__(
        self,
        store: StudyStore,
        space: SearchSpace,
        trials: int,
        configs: Sequence[TrainConfig] | None,
        progress: Progress,
    ) -> None:
        self._store = store
        self._trials = trials
        self._progress = progress
        wanted = [] if space.sampler == "tpe" else space.grid(trials) if configs is None else configs
        self._arms = None if space.sampler == "tpe" else {fingerprint(config): config for config in wanted}
        # A trial that fails while this driver is here is not replaced: that is for the next command.
        self._failed_before = {row.number for row in store.trials() if row.state == "failed"}
        self._open = list(self._arms or ())  # the arms that nobody trained yet, as far as was seen
        self._exhausted = False
        self._look_again = 0.0
        self._elsewhere = 0

    def take(self) -> Taken | None:
        """Starts a trial; None if there is none to start now."""
        if time.monotonic() < self._look_again:
            return None
        left_behind, taken = self._store.atomically(self._take)
        for each in (row for row in left_behind if row.config is not None):
            self._progress.say(f"trial number {each.number} was left behind by a driver that died: it goes on")
        if taken is None:
            self._look_again = time.monotonic() + _LOOK_AGAIN_SECONDS
        return taken

    def look_again(self) -> None:
        """To be told when a trial of this driver has ended."""
        self._look_again = 0.0

    @property
    def elsewhere(self) -> int:
        """How many trials ran on other drivers when `take` last looked: they may yet be left behind, or wait."""
        return self._elsewhere

    def trained(self, over: Sequence[TrialRow]) -> int:
        """How much of the total the finished and pruned trials are; arms that a grid does not ask for are not."""
        if self._arms is None:
            return len(over)
        self._open = [key for key in self._open if key not in self._store.trained]
        return len(self._arms) - len(self._open)

    def _take(self) -> tuple[list[TrialRow], Taken | None]:
        rows = self._store.trials()
        left_behind = self._store.take_over(rows)
        if left_behind:
            rows = self._store.trials()
        # Of thousands of trials nearly all are over: they are looked through once.
        by_state: dict[str, list[TrialRow]] = {state: [] for state in STATES}
        for row in rows:
            by_state[row.state].append(row)
        running, waiting = by_state["running"], by_state["waiting"]
        self._elsewhere = len(running) - self._store.asked
        failed = [row for row in by_state["failed"] if row.number not in self._failed_before]
        over = by_state["finished"] + by_state["pruned"]
        # An arm that failed here may have been trained by another driver since.
        tried = [
            row for row in failed if row.run_id is not None and self._store.fingerprint(row) not in self._store.trained
        ]
        begun = [*running, *tried]
        if self.trained(over) + sum(map(self._counts, begun)) >= self._trials:
            return left_behind, None
        if any(map(self._goes_on, waiting)) and (resumed := self._store.resume(self._goes_on)) is not None:
            return left_behind, Taken(resumed, resumed=True)
        taken = self._propose() if self._arms is None else self._next_arm([*running, *waiting, *failed])
        return left_behind, None if taken is None else Taken(taken, resumed=False)

    def _counts(self, row: TrialRow) -> bool:
        return self._arms is None or self._store.fingerprint(row) in self._arms

    def _goes_on(self, row: TrialRow) -> bool:
        """Whether to resume a waiting trial: no arm that a grid does not ask for; a foreign trial, to be refused."""
        return row.config is None or self._counts(row)

    def _next_arm(self, others: Sequence[TrialRow]) -> TrialRow | None:
        """Starts the first arm that is neither trained nor that of another trial."""
        assert self._arms is not None
        known = {self._store.fingerprint(row) for row in others}
        arm = next((key for key in self._open if key not in known), None)
        return None if arm is None else self._store.ask(self._arms[arm])

    def _propose(self) -> TrialRow | None:
        if self._exhausted:
            return None
        for _ in range(_MAX_REPEATS):
            row = self._store.ask(None)
            same = self._store.same_as(row)
            if same is None:
                return row
            # Failed trials neither count nor teach TPE anything; the repeat was not trained.
            self._store.fail(row.number, f"the same parameters as trial {same}: not trained again")
        self._progress.say(f"the last {_MAX_REPEATS} proposals were trained already: nothing new to try")
        self._exhausted = True
        return None
