"""A real Ray cluster on this machine: a head and a second node, each with processes of its own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

ADDRESS = "127.0.0.2"  # Ray replaces 127.0.0.1 by the machine's own address, on which this cluster does not listen
_NODE = {"num_cpus": 1, "node_ip_address": ADDRESS, "object_store_memory": 100 * 2**20}
_STARTS = 4  # of which each takes 30 s at most: Ray's own limit, which a busy machine exceeds
_Node = TypeVar("_Node")


class TwoNodes:
    """A cluster of two nodes with one CPU each, until a test takes one away."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {**_NODE, "include_dashboard": False}
        self._cluster = _patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
        self.address: str = self._cluster.address
        self._second: Any = None
        self.repair()

    def repair(self) -> None:
        """Adds the second node if it is gone."""
        if self._second is None:
            self._second = _patiently(lambda: self._cluster.add_node(**_NODE))

    def kill_node(self) -> None:
        """Kills the second node's processes; the first one holds the connection of the tests."""
        self._cluster.remove_node(self._second, allow_graceful=False)
        self._second = None

    def stop(self) -> None:
        self._cluster.shutdown()


def _patiently(start: Callable[[], _Node]) -> _Node:
    for _ in range(_STARTS - 1):
        try:
            return start()
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
    return start()


@contextmanager
def running_cluster() -> Iterator[TwoNodes]:
    cluster = TwoNodes()
    try:
        yield cluster
    finally:
        cluster.stop()
