"""Clusters that cannot be reached: one line, within seconds, with the remedy."""

import socket
import sys

import pytest

from experiments.executors.ray_cluster import connect
from seg.errors import UserError


def test_the_extra_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"executor=ray needs ray; pip install -e '\.\[ray\]'\."):
        connect("auto", ())


@pytest.fixture
def ray_is_there() -> None:
    pytest.importorskip("ray", reason="needs the extra ray")


@pytest.mark.usefixtures("ray_is_there")
class TestAddresses:
    @pytest.mark.parametrize("address", ["head", "ray://head:10001", "head:", ":6379", "head:6379/path", "local", ""])
    def test_forms(self, address: str) -> None:
        with pytest.raises(UserError, match=rf"ray_address must be auto or HOST:PORT, got '{address}'; Ray's own port"):
            connect(address, ())

    def test_nothing_listens(self) -> None:
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.2", 0))  # and does not listen
            address = f"127.0.0.2:{reserved.getsockname()[1]}"
            with pytest.raises(
                UserError, match=rf"the Ray cluster at {address} must answer, got: .*refused.*`ray status`"
            ):
                connect(address, ())

    def test_no_port(self) -> None:
        with pytest.raises(UserError, match=r"the Ray cluster at 127\.0\.0\.2:99999 must answer"):
            connect("127.0.0.2:99999", ())

    def test_auto_finds_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from ray._private import services

        def nothing(address: str) -> str:
            raise ConnectionError

        monkeypatch.setattr(services, "canonicalize_bootstrap_address", nothing)  # a test's cluster may be running
        with pytest.raises(UserError, match=r"ray_address=auto must find a Ray cluster .*run `ray start --head` here"):
            connect("auto", ())

    def test_the_variable_names_a_client_server(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
        with pytest.raises(UserError, match="RAY_ADDRESS must be HOST:PORT, got 'ray://head:10001'"):
            connect("auto", ())
