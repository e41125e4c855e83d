"""Which devices train together."""

import re

import tensorflow as tf

from seg.errors import UserError


def make_strategy(devices: str) -> tf.distribute.Strategy:
    """Makes the strategy of this process; call it once, before anything else touches TensorFlow.

    Args:
        devices: `auto`: all GPUs that the process sees, one replica each, else one replica on the CPU;
            `cpu:N`: N logical CPU devices, one replica each.

    Raises:
        UserError: if `devices` is neither, or if TensorFlow has started with other devices.
    """
    if devices == "auto":
        gpus = tf.config.list_logical_devices("GPU")
        if len(gpus) > 1:
            return tf.distribute.MirroredStrategy([gpu.name for gpu in gpus])
        return tf.distribute.OneDeviceStrategy(gpus[0].name if gpus else "CPU:0")
    match = re.fullmatch(r"cpu:([1-9]\d{0,2})", devices)
    if match is None:
        raise UserError(f"devices must be auto or cpu:N with N from 1 to 999, got '{devices}'.")
    return _logical_cpus(int(match[1]))


def effective_batch_size(batch_size: int, replicas: int) -> int:
    """`batch_size`, rounded up to a multiple of `replicas`: a batch that cannot be shared evenly crashes Keras."""
    return -(-batch_size // replicas) * replicas


def device_names(strategy: tf.distribute.Strategy) -> tuple[str, ...]:
    """What trains together, one name per replica: `CPU`, or the product name of a GPU."""
    gpus = tf.config.list_physical_devices("GPU")
    names = []
    for device in strategy.extended.worker_devices:
        kind, _, number = device.rpartition("device:")[2].partition(":")
        details = tf.config.experimental.get_device_details(gpus[int(number)]) if kind == "GPU" else {}
        names.append(str(details.get("device_name", kind)))
    return tuple(names)


def thread_counts() -> dict[str, int]:
    """Threads that TensorFlow may use, `intra_op` and `inter_op`; 0: as many as there are cores."""
    threading = tf.config.threading
    return {
        "intra_op": int(threading.get_intra_op_parallelism_threads()),
        "inter_op": int(threading.get_inter_op_parallelism_threads()),
    }


def _logical_cpus(number: int) -> tf.distribute.Strategy:
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_visible_devices([], "GPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * number)
    except RuntimeError:
        pass  # TensorFlow runs already; what counts is with how many devices
    found = len(tf.config.list_logical_devices("CPU"))
    if found != number:
        raise UserError(
            f"devices=cpu:{number} must be chosen before TensorFlow starts, which runs with {found} CPU device(s); "
            "use a new process."
        )
    if number == 1:
        return tf.distribute.OneDeviceStrategy("CPU:0")
    return tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(number)])
