import os
import subprocess
import sys

import pytest

from seg.start import _silent_unless_it_fails


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)


def test_tensorflow_starts_without_a_word() -> None:
    ended = run_python(
        "from seg.start import start_tensorflow; start_tensorflow()\n"
        "import keras, tensorflow as tf; tf.config.list_logical_devices(); print(float(tf.add(1., 2.)))"
    )
    assert (ended.stdout, ended.stderr) == ("3.0\n", "")


def test_importing_the_module_imports_no_tensorflow() -> None:
    assert run_python("import seg.start, sys; print('tensorflow' in sys.modules)").stdout == "False\n"


def fail() -> None:
    with _silent_unless_it_fails():
        os.write(2, b"the reason\n")
        raise ImportError("libmissing")


def test_what_was_written_is_shown_if_it_fails(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ImportError, match="libmissing"):
        fail()
    assert capfd.readouterr().err == "the reason\n"


def test_stderr_comes_back(capfd: pytest.CaptureFixture[str]) -> None:
    with _silent_unless_it_fails():
        os.write(2, b"noise\n")
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "afterwards\n"
