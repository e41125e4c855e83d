from importlib.metadata import PackageNotFoundError, version

import pytest

from tests.alone import check_alone


@pytest.mark.slow
def test_in_a_process_of_its_own():
    try:
        version("openvino")
    except PackageNotFoundError:
        pytest.skip("needs the extra openvino")
    check_alone("tests/openvino_alone.py")
