"""Image files to start from, and how they are damaged: as chunks and entries, so that checks alone do not stop it."""

import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from random import Random

import cv2
import numpy as np

_ANEW = 0.4  # share of mutations that begin at a whole image: most changes leave something that is refused early
_HEIGHT, _WIDTH = 16, 24
_PNG = b"\x89PNG\r\n\x1a\n"
_SIDES = (0, 1, 2, 8, 15, 16, 17, 24, 25, 200, 256, 65_535, 2**31 - 1, 2**31, 2**32 - 1)
_HUGE_SIDES = (4096, 8192, 32_767, 32_768, 32_769)  # rare, because such an image takes up to a second


def seeds() -> Iterator[bytes]:
    """A small file of every kind that OpenCV writes, the formats that are refused too, a lossless JPEG, no image."""
    random = np.random.default_rng(0)
    grey = random.integers(0, 256, (_HEIGHT, _WIDTH), np.uint8)
    colour = random.integers(0, 256, (_HEIGHT, _WIDTH, 3), np.uint8)
    alpha = np.dstack([colour, grey])
    deep = colour.astype(np.uint16) * 257
    for suffix in (".png", ".jpg", ".bmp", ".tiff", ".webp", ".gif"):
        yield _encoded(suffix, colour)
    for suffix in (".png", ".jpg", ".bmp", ".tiff"):
        yield _encoded(suffix, grey)
    for suffix in (".png", ".tiff"):
        yield _encoded(suffix, deep)
        yield _encoded(suffix, alpha)
    yield _encoded(".jpg", colour, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    yield _encoded(".jpg", np.tile(colour, (4, 4, 1)))  # large enough to be decoded at a half
    yield lossless_jpeg(64)
    yield _encoded(".png", grey, cv2.IMWRITE_PNG_BILEVEL, 1)
    yield _encoded(".tiff", colour, cv2.IMWRITE_TIFF_COMPRESSION, 1)
    yield _encoded(".tiff", colour.astype(np.float32))
    yield b"<html>"


def lossless_jpeg(side: int) -> bytes:
    """A lossless JPEG (SOF3) of one grey in red, green and blue, as no library here writes it.

    Each number is as predicted, and so takes one bit, which is 0.
    """
    colours = [bytes([name]) for name in b"RGB"]
    frame = struct.pack(">HBHHB", 17, 8, side, side, 3) + b"".join(colour + b"\x11\0" for colour in colours)
    codes = b"\0\x14\0" + bytes([1] + 15 * [0]) + b"\0"
    scan = b"\0\x0c\3" + b"".join(colour + b"\0" for colour in colours) + b"\1\0\0"
    numbers = bytes(-(-3 * side * side // 8))
    return b"\xff\xd8\xff\xc3" + frame + b"\xff\xc4" + codes + b"\xff\xda" + scan + numbers + b"\xff\xd9"


@cache
def _all_seeds() -> tuple[bytes, ...]:
    return tuple(seeds())


def mutate(data: bytes, most: int, random: Random, mutate_bytes: Callable[[bytes, int], bytes]) -> bytes:
    """Another file like `data`, of at most `most` bytes."""
    if random.random() < _ANEW:
        data = random.choice(_all_seeds())
    choice = random.random()
    if choice < 0.25 or len(data) < 30:
        changed = mutate_bytes(data, most)
    elif choice < 0.3:
        changed = data[: random.randrange(len(data))]
    elif data.startswith(_PNG):
        changed = _mutated_png(data, random)
    elif data.startswith(b"\xff\xd8"):
        changed = _mutated_jpeg(data, random)
    elif data.startswith(b"BM"):
        changed = _overwritten(data, random.choice((10, 14, 18, 22, 28, 30, 34, 46)), "<", random)
    elif data[:2] in (b"II", b"MM"):
        changed = _mutated_tiff(data, random)
    else:
        changed = mutate_bytes(data, most)
    return changed[:most]


def _encoded(suffix: str, image: np.ndarray, *options: int) -> bytes:
    return bytes(cv2.imencode(suffix, image, list(options))[1])


def _side(random: Random) -> int:
    return random.choice(_HUGE_SIDES if random.random() < 0.01 else _SIDES)


def _overwritten(data: bytes, place: int, order: str, random: Random) -> bytes:
    kind, most = random.choice((("B", 2**8), ("H", 2**16), ("I", 2**32)))
    number = struct.pack(order + kind, _side(random) % most)
    return data[:place] + number + data[place + len(number) :]


def _mutated_png(data: bytes, random: Random) -> bytes:
    """With its chunks changed and their checksums right."""
    chunks = list(_chunks(data))
    if not chunks:
        return data
    place = random.randrange(len(chunks))
    kind, body = chunks[place]
    match random.randrange(6):
        case 0:
            chunks.insert(random.randrange(len(chunks) + 1), (kind, body))
        case 1:
            del chunks[place]
        case 2:
            chunks.insert(place, (random.choice((b"PLTE", b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT")), body[:30]))
        case 3 if kind == b"IDAT":
            chunks[place] = (kind, zlib.compress(random.randbytes(random.choice((0, 10, 2000)))))
        case 4:
            kind, body = chunks[0]
            chunks[0] = (kind, _overwritten(body, random.choice((0, 4)), ">", random))
        case _:
            if body:
                spot = random.randrange(len(body))
                body = body[:spot] + bytes([random.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))]) + body[spot + 1 :]
            chunks[place] = (kind, body)
    return _PNG + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = len(_PNG)
    while position + 12 <= len(data):
        (length,) = struct.unpack(">I", data[position : position + 4])
        yield data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        position += 12 + length


def _mutated_jpeg(data: bytes, random: Random) -> bytes:
    """With one of its segments changed, doubled or dropped; the scan is left to the changes of bytes."""
    segments = []
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != 0xDA:
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        segments.append(data[position:end])
        position = end
    if not segments:
        return data
    place = random.randrange(len(segments))
    segment = segments[place]
    match random.randrange(4):
        case 0:
            segments.insert(random.randrange(len(segments) + 1), segment)
        case 1:
            del segments[place]
        case 2:
            sizes = [at for at, found in enumerate(segments) if 0xC0 <= found[1] <= 0xC2]
            if sizes:
                segments[sizes[0]] = _overwritten(segments[sizes[0]], random.choice((5, 7)), ">", random)
        case _:
            spot = random.randrange(1, len(segment))
            segments[place] = segment[:spot] + random.randbytes(1) + segment[spot + 1 :]
    return data[:2] + b"".join(segments) + data[position:]


def _mutated_tiff(data: bytes, random: Random) -> bytes:
    """With an entry of its first directory changed, or copied over another one."""
    order = "<" if data.startswith(b"II") else ">"
    (directory,) = struct.unpack(order + "I", data[4:8])
    if directory + 2 > len(data):
        return data
    (count,) = struct.unpack(order + "H", data[directory : directory + 2])
    entries = [at for at in range(directory + 2, directory + 2 + 12 * min(count, 40), 12) if at + 12 <= len(data)]
    if not entries:
        return data
    place = random.choice(entries)
    match random.randrange(4):
        case 0:
            source = random.choice(entries)
            return data[:place] + data[source : source + 12] + data[place + 12 :]
        case 1:
            tag = struct.pack(
                order + "H", random.choice((256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 322, 323, 338))
            )
            return data[:place] + tag + data[place + 2 :]
        case _:
            return _overwritten(data, place + random.choice((2, 4, 8)), order, random)
