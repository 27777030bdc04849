"""A hostile rank's messages to the worker cause typed errors, and nothing else."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
import threading
import typing
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import zmq

from ckpt_worker.protocol import messages
from ckpt_worker.protocol.messages import FromRank
from lies import lie
from rank import TOKEN, Rank

LIES = 500
HONEST_EVERY = 25
#: An update that takes longer counts as hanging, in seconds.
HANGS = 60.0
#: A worker that received a false message answers within this time, in milliseconds, or not at all.
ANSWERS_MS = 60
TRACED = "open,openat,openat2,creat,access,faccessat,faccessat2"
#: Places that a worker writes to: shared memory, and names of its threads.
ALLOWED = re.compile(r"/(dev/shm/|memfd:ckpt|proc/\d+/task/\d+/comm$)")
TENSORS = {f"layer.{index}.weight": torch.full((16, 16), index + 1, dtype=torch.uint8) for index in range(4)}
SIZE = sum(tensor.numel() for tensor in TENSORS.values())

#: Every message of a rank, with every field of its type.
PLACES = [
    (kind.__struct_config__.tag, field.encode_name)
    for kind in typing.get_args(FromRank)
    for field in (*msgspec.structs.fields(kind), None)
    if field is not None
]
#: How a rank sends each of them. Without an entry for a new message this test fails.
STAGED = ["attach", "bucket", "routes", "release", "sums", "commit"]
DIRECT = ["attach", "routes", "storages", "direct", "bucket", "release", "sums", "commit"]
WAYS = {
    "attach": [STAGED, DIRECT],
    "bucket": [STAGED, DIRECT],
    "routes": [STAGED, DIRECT],
    "storages": [DIRECT],
    "rehearse": [["rehearse", "routes", *STAGED], ["rehearse", *DIRECT]],
    "leave": [["leave"], ["attach", "leave"]],
    "direct": [DIRECT],
    "release": [STAGED, DIRECT],
    "sums": [STAGED, DIRECT],
    "commit": [STAGED, DIRECT],
    "abort": [["attach", "bucket", "abort"], ["attach", "direct", "abort"]],
    "error": [["error"], ["attach", "bucket", "error"]],
}


class HostileWorker:
    """The worker's process, under strace."""

    def __init__(self, trace: Path) -> None:
        program = Path(__file__).with_name("hostile_worker.py")
        command = [
            "strace",
            "-f",
            "--seccomp-bpf",
            "-y",
            "-o",
            str(trace),
            "-e",
            f"trace={TRACED}",
            sys.executable,
            str(program),
        ]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        hangs = threading.Timer(HANGS, self.process.kill)
        hangs.start()
        line = self.process.stdout.readline()
        hangs.cancel()
        assert line, f"the worker hung or ended: {self.process.poll()}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()

    def mark(self, name: str) -> dict[str, Any]:
        self.tell(f"mark {name}")
        return self.hear()


class HostileRank(Rank):
    """A rank that is honest until it has to send one particular message."""

    def __init__(self, numbers: random.Random, names: list[str]) -> None:
        super().__init__(ring_bytes=1 << 14)
        self._numbers, self._names = numbers, [*names, self.ring_name]
        self._recording = "none"

    def honest(self, kind: str) -> dict[str, Any]:
        self._seq += 1
        fields: dict[str, dict[str, Any]] = {
            "attach": {
                "token": TOKEN,
                "ring": {"kind": "shm", "name": self.ring_name, "offset": 0, "bytes": self.ring_bytes, **self._identity()},
                "tensors": len(TENSORS),
                "bytes": SIZE,
                "record": self._numbers.random() < 0.2,
            },
            "bucket": {"bucket": 0, "tensors": self.put(TENSORS)},
            "routes": {"token": TOKEN},
            "storages": {"token": TOKEN},
            "rehearse": {"token": TOKEN, "tensors": [[name, "U8", list(tensor.shape)] for name, tensor in TENSORS.items()]},
            "direct": {"routes": self._recording, "replay": True, "check": self._numbers.sample(list(TENSORS), 2)},
            "sums": {"routes": self._recording},
            "commit": {"version": "v", "digest": "d"},
            "abort": {"reason": "because"},
            "error": {"error": {"type": "ABORTED", "message": "m"}},
        }
        return {"type": kind, "seq": self._seq, "epoch": 1, **fields.get(kind, {})}

    def _identity(self) -> dict[str, Any]:
        found = self.ring_path.stat()
        return {"device": str(found.st_dev), "inode": str(found.st_ino), "size": found.st_size}

    def run(self, kinds: list[str], at: tuple[str, str] | None) -> bool:
        """One update; returns true if something was falsified."""
        lied = False
        hello = self.receive()
        self._recording = hello.get("routes") or "none"
        for kind in kinds:
            message = self.honest(kind)
            if at is not None and kind == at[0]:
                lied = True
                frames = lie(self._numbers, message, at[1], self._names)
            else:
                frames = [msgspec.msgpack.encode(message)]
            for frame in frames:
                self.send_frame(frame)
            answer = self.answer(ANSWERS_MS if lied else 10_000)
            if answer is None or answer.get("type") != "ok":
                break
        return lied

    def answer(self, milliseconds: int) -> dict[str, Any] | None:
        self._socket.set(zmq.RCVTIMEO, milliseconds)
        try:
            return self.receive()
        except zmq.Again:
            return None


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[HostileWorker]:
    if shutil.which("strace") is None:
        pytest.skip("there is no strace")
    started = HostileWorker(tmp_path / "trace")
    yield started
    started.end()


def test_lies_of_a_rank_end_in_typed_errors_and_leave_nothing(worker: HostileWorker, tmp_path: Path) -> None:
    tags = {kind for kind, _ in PLACES}
    assert tags == WAYS.keys()
    assert len(tags) == len(typing.get_args(messages.FromRank))
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    numbers = random.Random(15)
    other = Path("/dev/shm") / f"ckpt-test-other-{numbers.getrandbits(64):x}"
    other.write_bytes(bytes(100))
    names = [other.name, f"../..{victim}", str(victim)]
    told: Counter[tuple[str, str]] = Counter()
    codes: Counter[str] = Counter()
    wrong: list[str] = []

    def update(kinds: list[str], at: tuple[str, str] | None) -> tuple[dict[str, Any], bool]:
        rank = HostileRank(numbers, names)
        with rank:
            worker.tell(rank.address)
            lied = rank.run(kinds, at)
            rank.die()
            return worker.hear(), lied

    def honest() -> None:
        outcome, _ = update(STAGED, None)
        if outcome["code"] != "ok":
            wrong.append(f"an honest update: {outcome}")

    for _ in range(3):
        honest()
    worker.mark("begins")
    warm: dict[str, Any] = {}
    lies = trial = 0
    while lies < LIES:
        at = PLACES[trial % len(PLACES)]
        outcome, lied = update(numbers.choice(WAYS[at[0]]), at)
        lies += lied
        told[at] += lied
        codes[outcome["code"]] += 1
        if outcome["code"] == "raw":
            wrong.append(f"{at}: {outcome['text']}")
        if trial % HONEST_EVERY == 0:
            honest()
        if trial == LIES // 3:
            warm = worker.mark("is-warm")
        trial += 1
    after = worker.mark("ends")
    print(f"{lies} lies in {trial} updates: {dict(codes)}; {warm} {after}")
    other.unlink()
    assert wrong == []
    assert [place for place in PLACES if told[place] == 0] == []
    assert after["files"] <= warm["files"] + 2
    assert after["shared"] <= warm["shared"] + 2
    assert after["threads"] <= warm["threads"] + 1
    assert after["kilobytes"] - warm["kilobytes"] < 96 * 1024
    assert victim.read_text() == "untouched"
    worker.end()
    trace = (tmp_path / "trace").read_text("latin-1")
    assert len(re.findall(r'"/dev/shm/ckpt-test-\w+", O_RDONLY', trace)) > 100, "the trace shows what is opened"
    written = opened_for_writing(trace)
    assert [path for path in written if not ALLOWED.match(path)] == []


def opened_for_writing(trace: str) -> list[str]:
    """Paths between the marks of a trace, as the system resolved them."""
    begin, end = trace.index('"/ckpt-trace-begins"'), trace.index('"/ckpt-trace-ends"')
    lines = trace[begin:end].splitlines()
    opened = [line for line in lines if re.search(r"O_RDWR|O_WRONLY|O_CREAT|O_TRUNC|creat\(", line)]
    return [found[1] for line in opened if (found := re.search(r"= \d+<(.*)>$", line))]
