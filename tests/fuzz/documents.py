"""Annotation files to start from, and how they are damaged: as trees, so that the damage lies behind the parser."""

import copy
import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from tests.small_export import content

_INTEGERS = (0, 1, -1, 2, 7, 8, 9, 64, 255, 256, 32_768, 32_769, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, -(2**63))
_FLOATS = (float("nan"), float("inf"), -float("inf"), 1e308, -1e308, 1e-308, 0.5, -0.0, 8.0, 1e9)
_TEXTS = (
    "",
    "\x00",
    "../a.png",
    "/etc/a.png",
    "a" * 5000,
    "\ud800",
    "C:\\a.png",
    "é/ü.png",
    "0",
    "P0o0",
    "\n",
    ".",
    "~",
)
_LARGEST_INTEGER = 10**4300 - 1  # more digits are no JSON to Python
_HUGE_SIDES = (4096, 8192, 32_768)  # rare, because each such image takes a tenth of a second
_DEEPEST = 3000


def seeds() -> Iterator[bytes]:
    """Valid files that together hold every kind of segmentation."""
    plain = content(3)
    yield json.dumps(plain).encode()
    runs = {"size": [8, 8], "counts": [18, 4, 4, 4, 34]}
    compressed = {"size": [8, 8], "counts": "b044R1"}
    two_parts = [[0, 0, 3, 0, 3, 3], [4.5, 4.5, 7.25, 4.5, 7.25, 7.75, 4, 7]]
    for segmentation in (runs, compressed, two_parts, []):
        document = content(2)
        document["annotations"][0]["segmentation"] = segmentation
        yield json.dumps(document).encode()
    crowds = content(2)
    crowds["annotations"].append(crowds["annotations"][0] | {"id": 9, "iscrowd": 1, "segmentation": runs})
    yield b"\xef\xbb\xbf" + json.dumps(crowds, indent=1).encode()


def mutate(data: bytes, most: int, random: Random, mutate_bytes: Callable[[bytes, int], bytes]) -> bytes:
    """Another file like `data`, of at most `most` bytes."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        tree = content(1) if random.random() < 0.3 else None
    if tree is None or random.random() < 0.1:
        return mutate_bytes(data, most)
    for _ in range(random.choice((1, 1, 2, 4))):
        tree = _mutated(tree, random)
    if random.random() < 0.002:
        return (b"[" * _DEEPEST + json.dumps(tree).encode())[:most]
    return json.dumps(tree, ensure_ascii=random.random() < 0.9).encode("utf-8", "surrogatepass")[:most]


def _mutated(tree: Any, random: Random) -> Any:
    places = list(_places(tree))
    if not places:
        return _anything(random)
    parent, key = random.choice(places)
    value = parent[key]
    match random.randrange(8):
        case 0:
            del parent[key]
        case 1:
            parent[key] = _anything(random)
        case 2 if isinstance(parent, list):
            parent.insert(random.randrange(len(parent) + 1), copy.deepcopy(value))
        case 3:  # a value from elsewhere in the file
            other, place = random.choice(places)
            parent[key] = copy.deepcopy(other[place])
        case 4:
            parent[key] = random.choice(([value], {"size": [8, 8], "counts": value}, str(value)[:50], None))
        case 5 if isinstance(parent, dict):
            parent[random.choice(("id", "image_id", "iscrowd", "area", "counts", "size"))] = value
        case _:
            parent[key] = _near(value, random)
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every value in the tree, as its parent and its key there."""
    pending = [tree]
    while pending:
        parent = pending.pop()
        keys = list(parent) if isinstance(parent, dict) else range(len(parent)) if isinstance(parent, list) else ()
        for key in keys:
            yield parent, key
            pending.append(parent[key])


def _near(value: Any, random: Random) -> Any:
    """A value of the same type, so that only the finer rules are broken."""
    if isinstance(value, bool) or value is None:
        return random.choice((True, False, None, 0, 1))
    if isinstance(value, int):
        if abs(value) > 2**64:  # a digit more would be no JSON to Python
            return -value
        return random.choice((value + 1, value - 1, -value, 2 * value, float(value)))
    if isinstance(value, float):
        return random.choice((value / 3, value + 0.5, -value, value * 1e9, *_FLOATS))
    if isinstance(value, str):
        place = random.randrange(len(value) + 1)
        return value[:place] + chr(random.randrange(40, 120)) + value[place + random.randrange(2) :]
    if isinstance(value, list):
        return [*value, *value[: random.randrange(4)]] if random.random() < 0.5 else value[: len(value) // 2]
    return value


def _anything(random: Random) -> Any:
    match random.randrange(8):
        case 0 | 1:
            return random.choice(_INTEGERS)
        case 2:
            return random.choice(_FLOATS)
        case 3:
            return random.choice(_TEXTS)
        case 4:
            return random.choice(([], {}, [[]], None, True, [_LARGEST_INTEGER], [_LARGEST_INTEGER, _LARGEST_INTEGER]))
        case 5:
            return [random.randint(-8, 16) for _ in range(random.randrange(12))]
        case 6:
            return [[random.uniform(-2, 10) for _ in range(2 * random.randrange(8))]]
        case _:
            return random.choice(_HUGE_SIDES) if random.random() < 0.05 else random.randrange(40)
