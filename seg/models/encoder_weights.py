"""The weights that an encoder begins with: none, those of ImageNet, or a file."""

import math
import socket
from pathlib import Path

import h5py
import keras

from seg.errors import UserError

_SECONDS = 20.0  # without an answer, after which a download has failed

_URL = "https://storage.googleapis.com/tensorflow/keras-applications/"
_IMAGENET = {
    "mobilenetv3small": (
        "mobilenet_v3/weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
        "d3e8ec802a04aa4fc771ee12a9a9b836",
    ),
    "mobilenetv3": (
        "mobilenet_v3/weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
        "07fb09a5933dd0c8eaafa16978110389",
    ),
    "resnet50": ("resnet/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5", "4d473c1dd8becc155b73f8504c6f6626"),
    "efficientnetv2b0": ("efficientnet_v2/efficientnetv2-b0_notop.h5", "893217f2bb855e2983157299931e43ff"),
}
"""Of keras.applications, without the classifier: the file's place, and its MD5 as Keras has it."""


def load_weights(network: keras.Model, encoder: str, source: str) -> None:
    """Gives a network of keras.applications the weights that `encoder_weights` names.

    Args:
        network: without its classifier.
        encoder: its name in `TrainConfig`.
        source: none: they stay as they are; imagenet: those of keras.applications, downloaded once into Keras's folder
            (`~/.keras/models`); else a file as `save_weights` of Keras writes it.

    Raises:
        UserError: if they cannot be downloaded, or the file is no such file or of another network.
    """
    if source == "none":
        return
    path = _download(encoder) if source == "imagenet" else Path(source)
    try:
        _check_sizes(path)
        network.load_weights(path)
    # A damaged file fails in as many ways as HDF5 has parts.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(
            f"encoder_weights must be a file with the weights of {encoder} without its classifier, and {path} is not: "
            f"{reason[:200]}."
        ) from None


def _download(encoder: str) -> Path:
    place, md5 = _IMAGENET[encoder]
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SECONDS)  # Keras itself would wait for ever
    try:
        return Path(keras.utils.get_file(place.rpartition("/")[2], _URL + place, cache_subdir="models", file_hash=md5))
    except Exception as error:  # Keras raises no other
        raise UserError(
            f"encoder_weights=imagenet needs {_URL}{place}, which cannot be downloaded ({_reason(error)}); fetch it "
            "where there is a network and give its path as encoder_weights, or use none."
        ) from None
    finally:
        socket.setdefaulttimeout(before)


def _reason(error: Exception) -> str:
    """The end of Keras's message: it begins with the address."""
    return str(error).rpartition(" -- ")[2].strip().partition("\n")[0][:200] or type(error).__name__


def _check_sizes(path: Path) -> None:
    """Reads no numbers yet: a small file can promise more of them than there is memory, or take them from elsewhere."""
    if not path.is_file():
        raise ValueError("there is no such file")
    promised = 0

    def check(name: str, found: h5py.Group | h5py.Dataset) -> None:
        nonlocal promised
        if isinstance(found, h5py.Dataset):
            if found.external or found.is_virtual:
                raise ValueError(f"'{name}' is kept in another file")
            promised += math.prod(found.shape or ()) * found.dtype.itemsize

    with h5py.File(path, "r") as file:
        file.visititems(check)
    if promised > path.stat().st_size:
        raise ValueError(f"it promises {promised} bytes of weights and has {path.stat().st_size} in all")
