from collections.abc import Iterator

import pytest

from seg.data.manifest import Manifest
from tests.postgresql_server import PostgreSQL, postgresql_server
from tests.tiny import write_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """13 training, 7 validation and 5 test images of 16×16 pixels; tests must not change it."""
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A running server; each test makes a database of its own in it, and leaves the server running."""
    with postgresql_server() as server:
        yield server
