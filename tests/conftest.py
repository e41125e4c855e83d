import sys
from collections.abc import Iterator

import pytest

from seg.data.manifest import Manifest
from tests.alone import is_alone
from tests.postgresql_server import PostgreSQL, postgresql_server
from tests.tiny import write_tiny

pytest.register_assert_rewrite("tests.history", "tests.executor_contract")  # a failure shows what was compared

if not is_alone:
    # What is served has a process of its own, and trainings have theirs; here they would share one. OpenVINO changes
    # how its process hears signals, and starts threads that stay.
    sys.modules.setdefault("openvino", None)  # type: ignore[arg-type]  # "cannot be imported"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """13 training, 7 validation and 5 test images of 16×16 pixels; tests must not change it."""
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A running server; each test makes a database of its own in it, and leaves the server running."""
    with postgresql_server() as server:
        yield server
