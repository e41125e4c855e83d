"""Deliver to MLflow what it was not told yet: what studies and runs of a workspace kept while it did not answer.

    python -m experiments.sync --workspace workspace

Every command that trains does this first, for its own store; this one does it for every store of the workspace. A
store's user and password are read from MLFLOW_TRACKING_URI. Exits with code 5 if something is left.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments.command_line import entry
from experiments.command_line.options import parser
from experiments.tracking import tracking_uri
from experiments.tracking.outboxes import Outboxes, stores
from experiments.tracking.recorder import Recorder
from experiments.tracking.transport import answers, deliver_now


def build_parser() -> argparse.ArgumentParser:
    return parser("sync", __doc__, ["workspace"])


def main(arguments: Sequence[str] | None = None) -> int:
    values = build_parser().parse_args(arguments)
    launch = entry.read_launch()
    tracking_uri.quieten_mlflow()
    left = [deliver(store, launch.tracking_uri) for store in stores(Path(values.workspace))]
    if any(left):
        return entry.UNDELIVERED
    print("MLflow has been told everything")
    return 0


def deliver(store: Outboxes, given: str | None) -> int:
    """Delivers what waits for one store and says so; returns how much is left.

    Args:
        store: its outboxes.
        given: MLFLOW_TRACKING_URI, which is used, with its password, if it names this store.
    """
    uri = tracking_uri.resolve(given)
    if Outboxes.of(Path(), uri).uri != store.uri:
        uri = store.uri
        if not store.whole and (count := sum(map(len, store.waiting()))):
            print(f"{store.uri}: {count} operation(s) not delivered; set MLFLOW_TRACKING_URI to it, with its password")
            return count
    left = 0
    recorder = Recorder(uri)
    for outbox in store.waiting():
        before = len(outbox)
        reason = deliver_now(outbox, recorder, lambda: answers(uri)) if answers(uri) else "it does not answer"
        print(f"{store.uri}: delivered {before - len(outbox)} operation(s) of {outbox.folder.name}")
        if len(outbox):
            why = tracking_uri.without_secrets(reason, uri)
            print(f"{store.uri}: {len(outbox)} operation(s) of {outbox.folder.name} not delivered: {why}")
            print(f"  to give them up, delete {outbox.folder}")
        left += len(outbox)
    if busy := store.taken():
        print(f"{store.uri}: {busy} command(s) at work deliver their own")
    return left


if __name__ == "__main__":
    entry.run(main)
