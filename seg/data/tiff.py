"""What a TIFF's header says, and which TIFFs OpenCV decodes to the colours that are stored.

Travels with the registered model. Offsets and tags are those of TIFF 6.0 (Adobe, 1992).

OpenCV gives wrong colours, without an error, for compressions that it does not know, and for more than 8 bits that
are stored channel by channel, as palette or with white as zero: such files are refused here. It multiplies 8-bit
colours by an alpha channel that is marked as not multiplied in yet; `keep_colours` marks it as multiplied in, so that
the stored colours come out. Of 16-bit grey with alpha it keeps the upper 8 bits, at most one level from the rounded
ones.
"""

import struct
from typing import Any

from seg.errors import UserError

_TAGS = {
    256: "width",
    257: "height",
    258: "bits",
    259: "compression",
    262: "photometric",
    277: "channels",
    284: "planar",
    338: "alpha",
    339: "sample format",
}
_NUMBERS = {1: "B", 3: "H", 4: "I"}  # how a type of field is unpacked
_COMPRESSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946)  # none, fax, LZW, JPEG, deflate, PackBits
_DEPTHS = (1, 8, 10, 12, 14, 16)
_GREY, _RGB, _PALETTE = 1, 2, 3
_TOGETHER = 1  # the channels of a pixel stand side by side
_MULTIPLIED, _NOT_MULTIPLIED = 1, 2  # the colours by their alpha


def tiff_size(data: bytes) -> tuple[int, int]:
    """Height and width in the header.

    Raises:
        UserError: if the header can be read in two ways.
        struct.error, KeyError: if the data ends within the header, or it states no size.
    """
    found = _fields(data)
    return found["height"][0], found["width"][0]


def check_tiff(data: bytes) -> None:
    """Refuses the TIFFs that OpenCV cannot decode, or decodes to other colours than are stored.

    Raises:
        UserError: if its numbers are no unsigned integers of 1, 8 or 10 to 16 bits, its compression is rare, it has
            more than four channels, or more than 8 bits in an unusual order.
    """
    fields = {name: number for name, (number, _, _) in _fields(data).items()}
    bits, photometric = fields.get("bits", 1), fields.get("photometric", _GREY)
    kind = {2: "signed integers", 3: "floating point"}.get(fields.get("sample format", 1), "unsigned integers")
    if kind != "unsigned integers" or (bits not in _DEPTHS and (bits, photometric) != (4, _PALETTE)):
        raise UserError(
            f"a TIFF must hold unsigned integers of 1, 8 or 10 to 16 bits, this one has {bits} bits of {kind}; "
            "choose the window of values and export 8 or 16 bits."
        )
    if fields.get("compression", 1) not in _COMPRESSIONS:  # of one that it does not know, OpenCV makes a black image
        raise UserError(f"a TIFF's compression must be known, got {fields['compression']}; export it with LZW or none.")
    channels = fields.get("channels", 1)
    if not 1 <= channels <= 4:
        raise UserError(f"a TIFF must have 1 to 4 channels, this one has {channels}; export it as grey or RGB.")
    apart = channels > 1 and fields.get("planar", _TOGETHER) != _TOGETHER
    if bits > 8 and (apart or photometric != (_GREY if channels < 3 else _RGB)):
        raise UserError(
            f"a TIFF of {bits} bits must be grey with black as zero, or RGB with the channels of a pixel side by side; "
            "export it like that."
        )


def keep_colours(data: bytes) -> bytes:
    """The same file with its alpha channel marked as multiplied into the colours, if it has one that is not yet."""
    number, form, place = _fields(data).get("alpha", (0, "B", 0))
    if number != _NOT_MULTIPLIED:
        return data
    marked = bytearray(data)
    struct.pack_into(form, marked, place, _MULTIPLIED)
    return bytes(marked)


def _fields(data: bytes) -> dict[str, tuple[Any, str, int]]:
    """The first number of each known field of the first directory, how it is packed, and where it stands."""
    order = "<" if data.startswith(b"II") else ">"
    (directory,) = struct.unpack(order + "I", data[4:8])
    (count,) = struct.unpack(order + "H", data[directory : directory + 2])
    found: dict[str, tuple[Any, str, int]] = {}
    for place in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, kind, length = struct.unpack(order + "HHI", data[place : place + 8])
        name = _TAGS.get(tag)
        if name is None:
            continue
        size = name in ("width", "height")
        # Of two sizes the decoder may take the other one, and then a small header hides a huge image.
        if name in found or kind not in _NUMBERS or (size and (kind == 1 or length != 1)):
            what = "one width and one height" if size else f"its {name} once, as an integer"
            raise UserError(f"the TIFF's header must state {what}; export it again.")
        form = order + _NUMBERS[kind]
        width = struct.calcsize(form)
        start = place + 8
        if width * length > 4:  # too long for the entry, which holds the place instead
            (start,) = struct.unpack(order + "I", data[start : start + 4])
        (number,) = struct.unpack(form, data[start : start + width])
        found[name] = (number, form, start)
    return found
