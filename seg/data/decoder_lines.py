"""Damage that decoders only tell the terminal: libjpeg and libtiff fill in what is missing, and OpenCV returns it.

A process has one standard error output, so this is for processes that decode one image at a time: the workers of the
conversion. It costs a few system calls per image.
"""

import os
import re
import tempfile
from types import TracebackType
from typing import Self

import cv2

from seg.data.images import silence_opencv
from seg.errors import UserError

# libjpeg tells only the first thing that is wrong. Not here: bytes before a marker that nobody needs. Encoders leave
# them behind whole images, and they are all that libjpeg says of some damage in the middle of one.
_JPEG_DAMAGE = re.compile(
    r"premature end of data segment|Premature end of JPEG file|bad Huffman code|bad arithmetic code|instead of RST"
)
_JPEG = re.compile(r"Corrupt JPEG data: |Premature end of JPEG file|Warning: unknown JFIF|Inconsistent progression")
_TIFF_DAMAGE = re.compile(r"TIFF_Error (.*)")
_OPENCV = re.compile(r"\[ ?[A-Z]+:\d+@|> |>?:?$")  # its line, and those that continue it


class DecoderLines:
    """While a `with` block runs, keeps the lines of decoders off the terminal; at its end, raises what they tell.

    Made once per process, entered once per image.

    Lines of anybody else are passed on when the block ends.

    Raises:
        UserError: at the end of the block, if a decoder says that it made up pixels.
    """

    def __init__(self) -> None:
        with tempfile.TemporaryFile() as file:
            self._file = os.dup(file.fileno())  # as long as the process
        self._terminal = -1
        silence_opencv()  # which is done once, so it will not be silenced again
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # or libtiff would not be heard

    def __enter__(self) -> Self:
        try:
            self._terminal = os.dup(2)
        except OSError:  # it was closed
            self._terminal = os.open(os.devnull, os.O_WRONLY)
        os.dup2(self._file, 2)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.dup2(self._terminal, 2)
        os.close(self._terminal)
        size = os.fstat(self._file).st_size
        if not size:
            return
        damage = None
        for line in self._taken(size):
            tiff = _TIFF_DAMAGE.search(line)
            jpeg = _JPEG_DAMAGE.search(line)
            if tiff:
                damage = damage or f"the TIFF is damaged ({tiff[1]})"
            elif jpeg:
                damage = damage or f"the JPEG is damaged ({jpeg.string.removeprefix('Corrupt JPEG data: ')})"
            elif not (_JPEG.match(line) or _OPENCV.match(line)):
                os.write(2, f"{line}\n".encode())
        if damage and kind is None:
            raise UserError(f"{damage}; copy or export it again.")

    def _taken(self, size: int) -> list[str]:
        text = os.pread(self._file, size, 0).decode("utf-8", "replace")
        os.lseek(self._file, 0, os.SEEK_SET)
        os.ftruncate(self._file, 0)
        return text.splitlines()
