"""What an image file's header says beyond its size: format, channels, depth, palette, rotation. Decodes no pixel."""

import struct
from dataclasses import dataclass

HEADER_BYTES = 256 * 1024  # of a file, enough for every header that cameras and tools write
_ORIENTATION = 0x0112
_TIFF_NUMBERS = {0x0102: "bits", 0x0115: "channels"}
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a header says.

    Attributes:
        format: `JPEG`, `PNG`, `BMP`, `TIFF`, or `unknown` where it cannot be told.
        channels: stored per pixel, alpha included; 0: unknown.
        bits: per channel; 0: unknown.
        palette: whether pixels are indices into a table of colours.
        orientation: EXIF's, 1 to 8; 1: upright.
    """

    format: str
    channels: int = 0
    bits: int = 0
    palette: bool = False
    orientation: int = 1

    @property
    def alpha(self) -> bool:
        """Whether a pixel has an opacity."""
        return self.format in ("PNG", "TIFF") and self.channels in (2, 4)


def read_header(data: bytes) -> Header:
    """Reads the first bytes of an image file; what is damaged stays unknown."""
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            bits, kind = data[24], data[25]
            return Header(format="PNG", channels=_PNG_CHANNELS.get(kind, 0), bits=bits, palette=kind == 3)
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data.startswith(b"BM"):
            (bits,) = struct.unpack("<H", data[28:30])
            return Header(format="BMP", channels=max(1, bits // 8), bits=min(8, bits), palette=bits <= 8)
        if data[:4] in (b"II*\0", b"MM\0*"):
            found = _tags(data, 0)
            return Header(
                format="TIFF",
                channels=found.get("channels", 1),
                bits=found.get("bits", 1),
                orientation=found.get("orientation", 1),
            )
    except (struct.error, IndexError):
        pass
    return Header(format="unknown")


def _jpeg(data: bytes) -> Header:
    orientation, position = 1, 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        (length,) = struct.unpack(">H", data[position + 2 : position + 4])
        if marker == 0xE1 and data[position + 4 : position + 10] == b"Exif\0\0":
            orientation = _tags(data[: position + 2 + length], position + 10).get("orientation", 1)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return Header(format="JPEG", bits=data[position + 4], channels=data[position + 9], orientation=orientation)
        position += 2 + max(2, length)
    return Header(format="JPEG", orientation=orientation)


def _tags(data: bytes, start: int) -> dict[str, int]:
    """Some numbers of the first directory of a TIFF that begins at `start`."""
    order = {b"II": "<", b"MM": ">"}.get(data[start : start + 2])
    if order is None:
        return {}
    found: dict[str, int] = {}
    try:
        (directory,) = struct.unpack(order + "I", data[start + 4 : start + 8])
        directory += start
        (count,) = struct.unpack(order + "H", data[directory : directory + 2])
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, kind, number, value = struct.unpack(order + "HHIH", data[entry : entry + 10])
            if tag == _ORIENTATION and 1 <= value <= 8:
                found["orientation"] = value
            elif tag in _TIFF_NUMBERS and kind == 3:
                if number > 2:  # several shorts do not fit into the entry: it holds their place
                    (place,) = struct.unpack(order + "I", data[entry + 8 : entry + 12])
                    (value,) = struct.unpack(order + "H", data[start + place : start + place + 2])
                found[_TIFF_NUMBERS[tag]] = value
    except struct.error:
        pass  # cut off: what was found so far
    return found
