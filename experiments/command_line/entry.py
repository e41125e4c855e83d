"""How every entry point starts and ends: MLflow's variables read once, mistakes as one line, honest exit codes.

Exit codes: 0 done; 1 it failed (a trial, the machine, a bug); 2 a mistake in what was given; 3 `audit`,
`doctor` or `verify` found an error; 4 the challenger was not promoted, or a run did not come out the same again; 5 it
is done, and MLflow, which does not answer, was not told all of it; 6 other drivers of the study took this one for dead
and went on with its trials (`experiments.storage.leases`); 130 interrupted.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

from experiments.command_line.code_version import remote_urls
from experiments.command_line.full_disk import no_room
from experiments.command_line.passwords import find_exposed, hide, separate_login, without_login
from experiments.jobs.one_job import JobFailed
from experiments.tracking.delivery import NotDelivered
from seg.errors import UserError, one_line

if TYPE_CHECKING:
    from experiments.tracking.tracker import Tracker

FAILED = 1
MISTAKE = 2
UNTRUSTWORTHY = 3
NOT_PROMOTED = 4
NOT_THE_SAME = 4
UNDELIVERED = 5
INTERRUPTED = 130  # 128 + SIGINT, as shells report it

Main = Callable[[Sequence[str] | None], int]


@dataclass(frozen=True)
class Launch:
    """What the surroundings say about MLflow.

    Attributes:
        tracking_uri: None for MLflow's default, `sqlite:///mlflow.db` in the working directory.
        run_id: the run that `mlflow run` made for this process; None when started directly.
    """

    tracking_uri: str | None
    run_id: str | None


def read_launch() -> Launch:
    """Reads the variables that `mlflow run` sets, and removes those that a child process would misread as its own."""
    separate_login(os.environ)
    run_id = os.environ.pop("MLFLOW_RUN_ID", None)
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)  # the run knows its experiment
    return Launch(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI"), run_id=run_id)


def done(tracker: "Tracker") -> int:
    """The exit code of a command that did its work; its last line says what MLflow was not told yet."""
    if not (left := tracker.undelivered()):
        return 0
    print(left, flush=True)
    return UNDELIVERED


def run(main: Main) -> NoReturn:
    """Runs an entry point's `main` with the command line's arguments and exits with its code."""
    # As Ctrl-C: by default SIGTERM would end the process with its MLflow run left RUNNING.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.excepthook = _tell
    try:
        _keep_passwords_in(sys.argv[1:])
        code = main(None)
    except UserError as error:
        print(f"error: {one_line(hide(str(error)))}", file=sys.stderr)
        code = MISTAKE
    except JobFailed as error:
        print(f"error: {hide(str(error))}", file=sys.stderr)
        code = FAILED
    except NotDelivered as error:
        print(f"not finished: {one_line(str(error))}", file=sys.stderr)
        code = UNDELIVERED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    except Exception as error:
        if (said := no_room(error)) is None:
            raise
        line = f"the disk must have room, got: {said}; make room and run the same command again."
        print(f"error: {one_line(line)}", file=sys.stderr)
        code = FAILED
    sys.exit(code)


def _keep_passwords_in(arguments: Sequence[str]) -> None:
    """Refuses a command line with a password, and cleans the run that `mlflow run` made with one.

    Raises:
        UserError: if an argument is a URL with a password. The message does not show it.
    """
    separate_login(os.environ)
    exposed = find_exposed(arguments)
    run_id, uri = os.environ.get("MLFLOW_RUN_ID"), os.environ.get("MLFLOW_TRACKING_URI")
    kept = ""
    if run_id and (exposed or without_login(remotes := remote_urls()) != remotes):
        from experiments.tracking import launched_run  # MLflow takes seconds to import

        launched_run.hide_logins(run_id, uri)
        kept = f"; {launched_run.delete(run_id, uri)}" if exposed else ""
    if exposed:
        raise UserError(
            f"{exposed} must have no password on a command line, where others see it; leave it out, and set "
            f"PGPASSWORD or write it into ~/.pgpass{kept}."
        )


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Python's own end of a process with a bug, without the passwords of URLs."""
    sys.stderr.write(hide("".join(traceback.format_exception(kind, error, trace))))
