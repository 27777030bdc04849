"""A worker that is called to prepare answers its rank's questions, and nothing else; its parameters stay as they are."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest
import torch

from ckpt_worker import AbortedError, DirectState, ProtocolError, UnauthorizedError
from ckpt_worker.update import run_prepare
from loaders import Tensors
from rank import TOKEN, Rank, in_thread
from test_recording import zeros
from test_rehearsal import Rehearsed

FORMS = [["a", "BF16", [4, 6]], ["b", "BF16", [6]]]


def engine() -> Rehearsed:
    def load(parameters: Tensors, tensors: Any) -> None:
        for name, tensor in tensors:
            parameters[name].copy_(tensor)

    return Rehearsed(zeros(a=(4, 6), b=(6,))(), load)


def prepare(rank: Rank, state: DirectState) -> Future[str | None]:
    return in_thread(lambda: run_prepare(rank.address, TOKEN, 10, state, engine="test"))


def test_it_rehearses_and_gives_handles_until_the_rank_leaves() -> None:
    made = engine()
    with Rank() as rank:
        running = prepare(rank, made.state)
        hello = rank.receive()
        assert (hello["rehearses"], hello["routes"]) == (True, None)
        recording = rank.call("rehearse", token=TOKEN, tensors=FORMS)["routes"]
        assert recording["rehearsed"] is True
        assert [name for name, _, _ in recording["tensors"]] == ["a", "b"]
        assert rank.call("routes", token=TOKEN)["routes"]["id"] == recording["id"]
        assert len(rank.call("storages", token=TOKEN)["storages"]) == len(recording["storages"])
        assert rank.call("leave")["type"] == "ok"
        assert running.result(10) == recording["id"] == made.state.id
    assert not made.touched
    assert all(not tensor.view(torch.int16).any() for tensor in made.parameters.values())


def test_a_loader_that_cannot_be_rehearsed_is_a_reason() -> None:
    state = DirectState(dict)
    with Rank() as rank:
        running = prepare(rank, state)
        assert rank.receive()["rehearses"] is False
        answer = rank.call("rehearse", token=TOKEN, tensors=FORMS)
        assert answer["reason"] == "this engine's loader cannot be rehearsed"
        rank.call("leave")
        assert running.result(10) is None


@pytest.mark.parametrize(
    ("kind", "fields", "error"),
    [
        ("rehearse", {"token": "wrong", "tensors": FORMS}, UnauthorizedError),
        ("release", {}, ProtocolError),
        ("bucket", {"bucket": 0, "tensors": []}, ProtocolError),
        ("rehearse", {"token": TOKEN, "tensors": [["a", "BF17", [1]]]}, ProtocolError),
        ("abort", {"reason": "no longer"}, AbortedError),
    ],
)
def test_anything_else_ends_it_with_an_error(kind: str, fields: dict[str, Any], error: type[Exception]) -> None:
    made = engine()
    with Rank() as rank:
        running = prepare(rank, made.state)
        rank.receive()
        answer = rank.call(kind, **fields)
        assert answer["type"] == ("ok" if kind == "abort" else "error")
        with pytest.raises(error):
            running.result(10)
    assert made.state.recording is None
