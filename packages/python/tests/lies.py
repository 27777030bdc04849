"""Messages of a hostile rank: an honest one with something falsified."""

from __future__ import annotations

import copy
import random
from typing import Any

import msgspec

NUMBERS: list[Any] = [
    0,
    -1,
    1,
    0.5,
    7,
    8,
    255,
    4096,
    2**31,
    2**32,
    2**53 - 1,
    2**53,
    2**63,
    2**64 - 1,
    1e300,
    float("nan"),
    float("inf"),
]
TEXTS = [
    "",
    "0",
    "x",
    "__class__",
    "../../etc/passwd",
    "/etc/passwd",
    "/proc/self/mem",
    ".",
    "..",
    "a/b",
    "\0",
    "é" * 200,
    "18446744073709551616",
]


def other(numbers: random.Random, value: Any, names: list[str]) -> Any:
    """Replacement for a value: one of the same kind, or of any."""
    near = numbers.random() < 0.75
    if near and isinstance(value, (int, float)) and not isinstance(value, bool):
        return numbers.choice([*NUMBERS, min(value + 1, 2**64 - 1), value - 1, min(value * 2, 2**64 - 1)])
    if near and isinstance(value, str):
        return numbers.choice([*TEXTS, *names, value + "x", value * 500, value[1:]])
    if near and isinstance(value, bytes):
        return numbers.choice([value[1:], value + value, b"", bytes(1 << 20), bytes(8)])
    anything: list[Any] = [
        None,
        True,
        numbers.choice(NUMBERS),
        numbers.choice([*TEXTS, *names]),
        numbers.randbytes(numbers.randint(0, 70)),
        [],
        {},
        {"a": {"b": {}}},
        [[[[[]]]]],
        list(range(1000)),
        {"kind": "cuda", "handle": bytes(64), "offset": 0, "bytes": 4096, "deviceUuid": "GPU-0"},
        {"kind": "shm", "name": numbers.choice(names), "offset": 0, "bytes": 4096},
    ]
    return numbers.choice(anything)


def places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every place inside a value, as its container and its key."""
    keys: Any = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        found.append((value, key))
        places(value[key], found)
    return found


def change(numbers: random.Random, message: dict[str, Any], field: str, names: list[str]) -> None:
    if field not in message:
        message[field] = other(numbers, None, names)
        return
    holder, key = numbers.choice([(message, field), *places(message[field], [])])
    kind = numbers.randrange(10)
    if isinstance(holder, list) and kind == 0:
        del holder[key]
    elif isinstance(holder, list) and kind == 1:
        holder.extend([holder[key]] * numbers.choice([1, 2, 300]))
    elif isinstance(holder, dict) and kind == 3:
        del holder[key]
    else:
        holder[key] = other(numbers, holder[key], names)


def bent(numbers: random.Random, frame: bytes) -> bytes:
    at = numbers.randrange(len(frame))
    kind = numbers.randrange(4)
    if kind == 0:
        return frame[:at] + bytes([frame[at] ^ 1 << numbers.randrange(8)]) + frame[at + 1 :]
    if kind == 1:
        return frame[:at]
    if kind == 2:
        return frame[:at] + numbers.randbytes(numbers.randint(1, 4)) + frame[at:]
    # A length that announces far more than follows.
    return frame[:at] + b"\xdd\x7f\xff\xff\xff" + frame[at:]


def lie(numbers: random.Random, message: dict[str, Any], field: str, names: list[str]) -> list[bytes]:
    """Frames in place of ``message``: up to three places changed, one in ``field``, or bytes, several frames, or none."""
    own = copy.deepcopy(message)
    kind = numbers.randrange(100)
    if kind < 72:
        change(numbers, own, field, names)
        for _ in range(numbers.randrange(3)):
            if own:
                change(numbers, own, numbers.choice(list(own)), names)
        return [msgspec.msgpack.encode(own)]
    honest = msgspec.msgpack.encode(own)
    if kind < 86:
        return [bent(numbers, honest)]
    if kind < 89:
        return [numbers.randbytes(numbers.randrange(200))]
    if kind < 93:
        return [honest] * numbers.choice([2, 3, 50])
    if kind < 97:
        return [
            msgspec.msgpack.encode({**own, "seq": numbers.choice([0, 1, 3, 99]), "epoch": numbers.choice([0, 2, 99])}),
            honest,
        ]
    if kind < 99:
        return [b"\x91" * (1 << 22)]
    return []
