"""Logical devices need a process each: tests/test_replicas.py makes them."""

import pytest
import tensorflow as tf

from seg.errors import UserError
from seg.training.devices import effective_batch_size, make_strategy


@pytest.mark.parametrize(
    ("batch_size", "replicas", "expected"), [(10, 1, 10), (10, 2, 10), (10, 4, 12), (10, 3, 12), (1, 8, 8), (16, 8, 16)]
)
def test_the_batch_is_rounded_up_to_a_multiple_of_the_replicas(batch_size: int, replicas: int, expected: int) -> None:
    assert effective_batch_size(batch_size, replicas) == expected


def test_auto_is_one_replica_on_a_machine_without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [])
    assert make_strategy("auto").num_replicas_in_sync == 1


@pytest.mark.parametrize("devices", ["gpu", "cpu", "cpu:", "cpu:0", "cpu:-1", "cpu:two", "cpu:1000", "", "CPU:2"])
def test_an_unknown_name(devices: str) -> None:
    with pytest.raises(UserError, match=rf"devices must be auto or cpu:N with N from 1 to 999, got '{devices}'\."):
        make_strategy(devices)


def test_too_late_for_other_devices() -> None:
    started_with = len(tf.config.list_logical_devices("CPU"))
    with pytest.raises(UserError, match="devices=cpu:7 must be chosen before TensorFlow starts"):
        make_strategy("cpu:7")
    assert make_strategy(f"cpu:{started_with}").num_replicas_in_sync == started_with
