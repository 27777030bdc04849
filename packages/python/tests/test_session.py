from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any

import msgspec
import pytest
import torch

from ckpt_worker import (
    AbortedError,
    DigestMismatchError,
    PeerLostError,
    ProtocolError,
    RingError,
    SilenceError,
    StateError,
    UnauthorizedError,
    UpdateResult,
    run_update,
)
from ckpt_worker.loading.fence import Fence
from rank import TOKEN, Rank, descriptors, in_thread, mapped

TENSORS = {
    "a": torch.randn(40, 8).to(torch.bfloat16),
    "b": torch.randn(7),
    "c": torch.arange(9, dtype=torch.uint8),
    "scalar": torch.tensor(3.5),
    "empty": torch.empty(0, 4),
    "fp8": torch.randint(0, 256, (16, 16), dtype=torch.uint8).view(torch.float8_e4m3fn),
}


class Worker:
    """A worker that keeps copies of everything it receives."""

    def __init__(self, rank: Rank, **options: Any) -> None:
        self.loaded: dict[str, torch.Tensor] = {}
        self.finished = 0
        self.rank = rank
        arguments = {"loader": self.load, "finish": self.finish, "device": "cpu", "timeout": 10.0, **options}
        self.running: Future[UpdateResult] = in_thread(
            lambda: run_update(rank.address, arguments.pop("token", TOKEN), **arguments)
        )

    def load(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in tensors:
            self.loaded[name] = tensor.clone()

    def finish(self) -> None:
        self.finished += 1

    def fails_with(self, kind: type[BaseException], text: str) -> None:
        with pytest.raises(kind, match=text):
            self.running.result(10)
        gc.collect()
        assert not mapped(self.rank.ring_name)


@pytest.fixture(autouse=True)
def _leaves_nothing() -> Iterator[None]:
    before, threads = descriptors(), threading.active_count()
    yield
    deadline = time.monotonic() + 5
    while (descriptors() > before or threading.active_count() > threads) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert descriptors() <= before
    assert threading.active_count() <= threads


@pytest.fixture
def rank() -> Iterator[Rank]:
    with Rank(offset=72) as opened:
        yield opened


def test_an_update_from_hello_to_commit(rank: Rank) -> None:
    versions: list[str] = []
    worker = Worker(rank, commit=versions.append)
    rank.update(TENSORS, "step-1")
    result = worker.running.result(10)
    assert (result.version, result.tensors, result.buckets) == ("step-1", len(TENSORS), 2)
    assert result.bytes == sum(tensor.numel() * tensor.element_size() for tensor in TENSORS.values())
    assert versions == ["step-1"]
    assert worker.finished == 1
    assert worker.loaded.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        found = worker.loaded[name]
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found.reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))
    assert not mapped(rank.ring_name)


def test_buckets_sent_ahead_are_answered_in_order(rank: Rank) -> None:
    worker = Worker(rank)
    rank.attach(TENSORS)
    sent = []
    for index, (name, tensor) in enumerate(TENSORS.items()):
        sent.append(rank.send("bucket", bucket=index, tensors=rank.put({name: tensor}, start=index * 4096)))
    sent.append(rank.send("release"))
    sent.append(rank.send("commit", version="v"))
    answers = [rank.receive() for _ in sent]
    assert [answer["seq"] for answer in answers] == sent
    assert {answer["type"] for answer in answers} == {"ok"}
    assert ["reloadMs" in answer for answer in answers] == [True] * len(TENSORS) + [False, False]
    assert worker.running.result(10).version == "v"


def test_the_rank_gets_the_loaders_error_with_traceback_and_tensor(rank: Rank) -> None:
    def raise_on_b(tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        for name, _ in tensors:
            if name == "b":
                raise KeyError("no such parameter")

    worker = Worker(rank, loader=raise_on_b)
    rank.attach(TENSORS)
    answer = rank.call("bucket", bucket=0, tensors=rank.put(TENSORS))
    assert (answer["type"], answer["epoch"]) == ("error", 1)
    assert answer["error"]["type"] == "KeyError"
    assert "no such parameter" in answer["error"]["message"]
    assert "raise_on_b" in answer["error"]["traceback"]
    assert answer["error"]["tensor"] == "b"
    # Messages sent before the abort are ignored.
    rank.send("bucket", bucket=1, tensors=[])
    assert rank.call("abort", reason="a worker failed")["type"] == "ok"
    worker.fails_with(KeyError, "no such parameter")


def test_an_error_while_finishing_reaches_the_rank(rank: Rank) -> None:
    def finish() -> None:
        raise ZeroDivisionError("post-processing")

    worker = Worker(rank, finish=finish)
    rank.attach({})
    answer = rank.call("release")
    assert (answer["type"], answer["error"]["type"]) == ("error", "ZeroDivisionError")
    assert "tensor" not in answer["error"]
    assert rank.call("abort", reason="x")["type"] == "ok"
    worker.fails_with(ZeroDivisionError, "post-processing")


def test_a_damaged_tensor_is_named_and_nothing_of_its_bucket_loaded(rank: Rank) -> None:
    worker = Worker(rank)
    rank.attach(TENSORS)
    entries = rank.put(TENSORS)
    with rank.ring_path.open("r+b") as file:
        file.seek(72 + entries[2][3] + 8)
        file.write(b"\xff")
    answer = rank.call("bucket", bucket=0, tensors=entries)
    assert answer["type"] == "error"
    assert answer["error"]["type"] == "DIGEST_MISMATCH"
    assert answer["error"]["tensor"] == "c"
    assert not worker.loaded
    rank.call("abort", reason="damaged")
    worker.fails_with(DigestMismatchError, "'c'")


def test_without_digests_nothing_is_compared(rank: Rank) -> None:
    worker = Worker(rank)
    rank.attach({"a": TENSORS["a"]})
    assert rank.call("bucket", bucket=0, tensors=rank.put({"a": TENSORS["a"]}, digests=False))["type"] == "ok"
    rank.call("abort", reason="enough")
    worker.fails_with(AbortedError, "enough")


def test_a_rank_with_a_wrong_token_gets_nothing(rank: Rank) -> None:
    worker = Worker(rank)
    answer = rank.attach(TENSORS, token="guess")
    assert answer["error"]["type"] == "ENGINE_UNAUTHORIZED"
    worker.fails_with(UnauthorizedError, "does not know")


def test_a_refusal_of_the_rank_ends_the_worker(rank: Rank) -> None:
    worker = Worker(rank, token="another")
    assert rank.receive()["token"] == "another"
    error = {"type": "ENGINE_UNAUTHORIZED", "message": "wrong token"}
    rank.send_frame(msgspec.msgpack.encode({"type": "error", "error": error}))
    worker.fails_with(UnauthorizedError, "wrong token")


@pytest.mark.parametrize("when", ["before attach", "attached", "loaded", "prepared"])
def test_abort_at_any_time(rank: Rank, when: str) -> None:
    worker = Worker(rank)
    if when == "before attach":
        rank.receive()
    else:
        rank.attach({"a": TENSORS["a"]})
    if when in {"loaded", "prepared"}:
        rank.call("bucket", bucket=0, tensors=rank.put({"a": TENSORS["a"]}))
    if when == "prepared":
        assert rank.call("release")["type"] == "ok"
    assert rank.call("abort", reason="changed my mind")["type"] == "ok"
    worker.fails_with(AbortedError, "changed my mind")


def test_silence_ends_in_an_error(rank: Rank) -> None:
    worker = Worker(rank, timeout=0.3)
    rank.attach(TENSORS)
    started = time.monotonic()
    worker.fails_with(SilenceError, "0.3 s")
    assert time.monotonic() - started < 5


def test_a_rank_that_dies_is_noticed_long_before_the_deadline(rank: Rank) -> None:
    worker = Worker(rank, timeout=60)
    rank.attach(TENSORS)
    rank.die()
    worker.fails_with(PeerLostError, "closed the connection")


def test_an_engine_that_shuts_down_lets_go(rank: Rank) -> None:
    stopping = threading.Event()
    worker = Worker(rank, timeout=60, cancelled=stopping.is_set)
    rank.attach(TENSORS)
    stopping.set()
    worker.fails_with(AbortedError, "shutting down")


@pytest.mark.parametrize(
    ("messages", "kind", "text"),
    [
        ([("bucket", {"bucket": 0, "tensors": []})], StateError, "before the attach"),
        ([("release", {})], StateError, "before the attach"),
        ([("attach", None), ("commit", {"version": "v"})], StateError, "before the release"),
        ([("attach", None), ("release", {}), ("release", {})], StateError, "second release"),
        ([("attach", None), ("release", {}), ("bucket", {"bucket": 0, "tensors": []})], StateError, "after the release"),
        ([("attach", None), ("bucket", {"bucket": 0, "tensors": [], "epoch": 2})], StateError, "not attached"),
        ([("attach", None), ("release", {"seq": 9})], ProtocolError, "message 9 came after message 1"),
        (
            [("attach", {"tensors": 1, "bytes": 9}), ("bucket", {"bucket": 0, "tensors": [["x", "U8", [9], 4088, 9, None]]})],
            RingError,
            "outside",
        ),
        (
            [("attach", None), ("bucket", {"bucket": 0, "tensors": [["x", "U8", [9], 0, 9, None]]})],
            ProtocolError,
            "more arrived",
        ),
        ([("attach", {"tensors": 1}), ("release", {})], ProtocolError, "0 tensors, 0 bytes arrived"),
        ([("attach", {"ring": {"kind": "shm", "name": "ckpt-none", "offset": 0, "bytes": 8}})], RingError, "cannot open"),
        ([("pickle", {})], ProtocolError, "pickle"),
    ],
)
def test_what_does_not_fit_is_refused(
    rank: Rank, messages: list[tuple[str, dict[str, Any] | None]], kind: type[Exception], text: str
) -> None:
    worker = Worker(rank)
    ring = {"kind": "shm", "name": rank.ring_name, "offset": 0, "bytes": 4096}
    attach: dict[str, Any] = {"token": TOKEN, "ring": ring, "tensors": 0, "bytes": 0}
    rank.receive()
    answers = []
    for name, fields in messages:
        sent = {**attach, **(fields or {})} if name == "attach" else fields or {}
        rank.send(name, **sent)
        answers.append(rank.receive())
    assert [answer["type"] for answer in answers] == ["ok"] * (len(messages) - 1) + ["error"]
    assert text in answers[-1]["error"]["message"]
    rank.call("abort", reason="as it must")
    worker.fails_with(kind, text)


@pytest.mark.parametrize(
    "frame",
    [b"", b"\xc1\x00", b"\x80\x04cos\nsystem\n(S'true'\ntR.", b"\x91" * 100_000],
    ids=["empty", "opcode", "pickle", "deep"],
)
def test_hostile_frames_are_answered_not_obeyed(rank: Rank, frame: bytes) -> None:
    worker = Worker(rank)
    rank.attach(TENSORS)
    rank.send_frame(frame)
    answer = rank.receive()
    assert (answer["type"], answer["error"]["type"]) == ("error", "ENGINE_PROTOCOL")
    rank.call("abort", reason="x")
    worker.fails_with(ProtocolError, "not MessagePack|malformed")


def test_messages_of_an_older_epoch_are_dropped(rank: Rank) -> None:
    worker = Worker(rank)
    rank.attach({}, epoch=5)
    rank.send("abort", reason="late", epoch=4)
    assert rank.call("release", epoch=5)["type"] == "ok"
    assert rank.call("commit", version="v", epoch=5)["type"] == "ok"
    assert worker.running.result(10).version == "v"


def test_a_loader_that_keeps_a_tensor_over_the_ring_is_told(rank: Rank) -> None:
    kept: list[torch.Tensor] = []
    keep: Callable[[Iterable[tuple[str, torch.Tensor]]], None] = lambda some: kept.extend(tensor for _, tensor in some)  # noqa: E731
    worker = Worker(rank, loader=keep)
    rank.attach({"b": TENSORS["b"]})
    assert rank.call("bucket", bucket=0, tensors=rank.put({"b": TENSORS["b"]}))["type"] == "ok"
    answer = rank.call("release")
    assert "kept a tensor" in answer["error"]["message"]
    kept.clear()
    rank.call("abort", reason="x")
    worker.fails_with(RingError, "kept a tensor")


def test_only_ipc_addresses_are_taken() -> None:
    with pytest.raises(ValueError, match="ipc://"):
        run_update("tcp://127.0.0.1:1", TOKEN, lambda _: None, None, "cpu", 1)


class _SlowLane:
    """Loads that end only when the test says so, as on a GPU's stream."""

    def __init__(self) -> None:
        self.passed = threading.Semaphore(0)
        self.enqueued = 0
        self.drained = 0

    @contextlib.contextmanager
    def loads(self) -> Iterator[None]:
        self.enqueued += 1
        yield

    def fence(self) -> Fence:
        return _SlowFence(self)

    def drain(self) -> None:
        self.drained += 1


class _SlowFence:
    def __init__(self, lane: _SlowLane) -> None:
        self._lane = lane

    def done(self) -> bool:
        return False

    def wait(self) -> float:
        assert self._lane.passed.acquire(timeout=10)
        return 1.0


def test_waiting_buckets_are_enqueued_before_an_earlier_one_is_over(rank: Rank, monkeypatch: pytest.MonkeyPatch) -> None:
    lane = _SlowLane()
    monkeypatch.setattr("ckpt_worker.update.load.lane_for", lambda _: lane)
    entered, proceed = threading.Event(), threading.Event()

    def load(tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        list(tensors)
        entered.set()
        assert proceed.wait(10)

    worker = Worker(rank, loader=load)
    rank.attach({f"t{index}": torch.zeros(8, dtype=torch.uint8) for index in range(3)})
    sent = [rank.send("bucket", bucket=0, tensors=[["t0", "U8", [8], 0, 8, None]])]
    assert entered.wait(10)
    sent += [rank.send("bucket", bucket=index, tensors=[[f"t{index}", "U8", [8], 8 * index, 8, None]]) for index in (1, 2)]
    time.sleep(0.2)  # lets both reach the worker's socket
    proceed.set()
    deadline = time.monotonic() + 10
    while lane.enqueued < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert lane.enqueued == 3  # though no load is over
    for seq in sent:
        lane.passed.release()
        answer = rank.receive()
        assert (answer["type"], answer["seq"], answer["reloadMs"]) == ("ok", seq, 1.0)
    drained = lane.drained
    assert rank.call("abort", reason="enough")["type"] == "ok"
    assert lane.drained > drained  # before the ring goes away
    worker.fails_with(AbortedError, "enough")
