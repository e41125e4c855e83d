"""Starts TensorFlow without its start-up messages. Imports nothing that is slow to import."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


def import_tensorflow() -> None:
    """Imports TensorFlow; its start-up messages are shown only if that fails.

    Later on only its errors are logged; TF_CPP_MIN_LOG_LEVEL, where it is set already, has precedence.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with _silent_unless_it_fails():
        import tensorflow  # noqa: F401


def start_tensorflow() -> None:
    """Imports TensorFlow and looks for devices; call it before the first import of what needs TensorFlow."""
    import_tensorflow()
    with _silent_unless_it_fails():
        import tensorflow as tf

        tf.config.list_physical_devices()  # a machine without a GPU complains here


@contextlib.contextmanager
def _silent_unless_it_fails() -> Iterator[None]:
    """Keeps what is written to stderr, from C++ too (no environment variable stops TensorFlow's first lines)."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            sys.stderr.flush()
            kept.seek(0)
            os.write(stderr, kept.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
