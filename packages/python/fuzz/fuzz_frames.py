"""Mutates frames of a rank and feeds them to the worker: ``fuzz_frames.py SEED SECONDS STATE [INPUT]``.

The current input is in the file STATE, so that the caller has it when the process dies or hangs.
"""

from __future__ import annotations

import gc
import random
import resource
import struct
import sys
import time
from collections.abc import Callable

import msgspec
import torch

from ckpt_worker.errors import WorkerError
from ckpt_worker.loading.bucket import open_bucket
from ckpt_worker.protocol.messages import Bucket, decode_from_rank, sender_of

RING = torch.arange(4096, dtype=torch.int64).view(torch.uint8)
LARGEST = 1 << 16
#: Growth that garbage does not explain, in kilobytes.
LEAK_KB = 64 * 1024
BORDERS = (0, 1, 0x7F, 0x80, 0xFF, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63, 2**64 - 1)


def seeds() -> list[bytes]:
    order = {"seq": 1, "epoch": 2}
    tensors = [
        ["model.w", "BF16", [2, 3], 256, 12, struct.pack("<Q", 0x0123456789ABCDEF)],
        ["b", "F8_E4M3", [], 0, 1, None],
        ["c", "I64", [4], 512, 32, None],
    ]
    shm = {"kind": "shm", "name": "ckpt-1", "offset": 4096, "bytes": 1 << 20}
    cuda = {"kind": "cuda", "handle": bytes(64), "offset": 0, "bytes": 1 << 20, "deviceUuid": "GPU-0"}
    attach = {"type": "attach", **order, "token": "t", "tensors": 3, "bytes": 45}
    messages: list[dict[str, object]] = [
        {**attach, "ring": shm},
        {**attach, "ring": cuda},
        {"type": "bucket", **order, "bucket": 3, "tensors": tensors},
        {"type": "bucket", **order, "bucket": 0, "tensors": []},
        {"type": "release", **order},
        {"type": "commit", **order, "version": "v1"},
        {"type": "abort", **order, "reason": "because"},
        {"type": "error", **order, "error": {"type": "ABORTED", "message": "m"}},
    ]
    return [msgspec.msgpack.encode(message) for message in messages]


def mutate(data: bytes, other: bytes, numbers: random.Random) -> bytes:
    out = bytearray(data)
    if numbers.randrange(8) == 0:
        out = out[: numbers.randrange(len(out) + 1)] + bytearray(other[numbers.randrange(len(other) + 1) :])
    for _ in range(numbers.randint(1, 4)):
        at = numbers.randrange(len(out) + 1)
        kind = numbers.randrange(6)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << numbers.randrange(8)
        elif kind == 1 and at < len(out):
            out[at] = numbers.randrange(256)
        elif kind == 2:
            width, code = numbers.choice(((1, "B"), (2, ">H"), (4, ">I"), (8, ">Q")))
            out[at : at + width] = struct.pack(code, numbers.choice(BORDERS) % (1 << 8 * width))
        elif kind == 3:
            del out[at : at + numbers.randrange(16)]
        elif kind == 4:
            out[at:at] = numbers.randbytes(numbers.randint(1, 8))
        else:
            part = out[at : at + numbers.randrange(32)]
            out[at:at] = part * numbers.randint(1, 50)
    return bytes(out[:LARGEST])


def attempt(frame: bytes) -> str:
    """Returns the outcome; anything that is not one of the worker's own errors is raised."""
    try:
        sender_of(frame)
        message = decode_from_rank(frame)
        if isinstance(message, Bucket):
            for _, tensor in open_bucket(RING, message.tensors):
                tensor.reshape(-1)[:1].clone()
        return type(message).__name__
    except WorkerError as error:
        return "".join("#" if letter.isdigit() else letter for letter in f"{error.code}: {error}")[:80]


def main() -> int:
    seed, seconds, state = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
    with open(state, "wb", buffering=0) as file:

        def tried(frame: bytes, run: Callable[[bytes], str]) -> str:
            file.seek(0)
            file.truncate(len(frame))
            file.write(frame)
            return run(frame)

        if len(sys.argv) > 4:
            with open(sys.argv[4], "rb") as given:
                print(tried(given.read(), attempt))
            return 0
        numbers = random.Random(seed)
        first = seeds()
        corpus = list(first)
        seen = {tried(frame, attempt) for frame in first}
        runs = 0
        warm: int | None = None
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            base = numbers.choice(first if numbers.random() < 0.5 else corpus)
            frame = mutate(base, numbers.choice(corpus), numbers)
            outcome = tried(frame, attempt)
            runs += 1
            if outcome not in seen and len(seen) < 2000:
                seen.add(outcome)
                corpus.append(frame)
            if runs == 20_000:
                gc.collect()
                warm = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gc.collect()
    grown = 0 if warm is None else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - warm
    print(f"frames: {runs} inputs, {len(seen)} outcomes, peak memory +{grown / 1024:.1f} MB")
    return 3 if grown > LEAK_KB else 0


if __name__ == "__main__":
    sys.exit(main())
