"""The plug-in's own part; the hooks get the same arguments as from SGLang 0.5.23."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ckpt_worker.engines.sglang import plugin as sglang
from ckpt_worker.loading.streaming import Named
from ckpt_worker.protocol.engine_key import KEY_VARIABLE
from rank import TOKEN, Rank, in_thread

KEY = "a key of this test"
TENSORS = {name: torch.randn(8, 4) for name in ("q.a", "k.a", "k.b", "q.b")}


class Updater:
    """The part of SGLang's ``WeightUpdater`` that the plug-in uses."""

    device = "cpu"

    def __init__(self, *, broken: bool = False) -> None:
        self.steps: list[str] = []
        self.loaded: dict[str, torch.Tensor] = {}
        self.broken = broken

    def get_model(self) -> Any:
        return self

    def load_weights(self, weights: Iterator[Named]) -> None:
        self.steps.append("load")
        for name, tensor in weights:
            if self.broken and name == "k.b":
                raise ValueError("no room for k.b")
            self.loaded[name] = tensor

    def begin_weight_update(self) -> None:
        self.steps.append("begin")

    def end_weight_update(self, *, run_post_load: bool) -> None:
        self.steps.append("end")


@pytest.fixture(autouse=True)
def without_sglang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sglang, "_refuse_what_cannot_be_reloaded", lambda updater: None)
    monkeypatch.setattr(sglang, "_served", sglang._Served())
    monkeypatch.setenv(KEY_VARIABLE, KEY)


def request(rank: Rank) -> SimpleNamespace:
    endpoint = {"rank": 0, "deviceUuid": "HOST-0", "address": rank.address}
    call = {"endpoints": [endpoint], "token": TOKEN, "timeoutMs": 10_000, "key": KEY}
    return SimpleNamespace(zmq_handles={"ckpt": json.dumps(call)})


def schedule(updaters: list[Updater], asked: Any) -> list[tuple[bool, str]]:
    """The scheduler's part: every runner in turn, through both hooks."""
    manager = SimpleNamespace(_select_runners=lambda: [("target", SimpleNamespace(weight_updater=u)) for u in updaters])

    def original(_: Any, asked: Any) -> list[tuple[bool, str]]:
        return [sglang.around_runner(lambda *_: (True, "SGLang's own way"), updater, asked) for updater in updaters]

    result: list[tuple[bool, str]] = sglang.around_scheduler(original, manager, asked)
    return result


def state() -> Any:
    return json.loads(
        sglang.around_runner(lambda *_: (False, ""), Updater(), SimpleNamespace(zmq_handles={"ckpt-status": ""}))[1]
    )


def test_all_models_of_a_worker_are_loaded_over_one_connection() -> None:
    updaters = [Updater(), Updater()]
    with Rank() as rank:
        outcome = in_thread(lambda: schedule(updaters, request(rank)))
        rank.update(TENSORS, "v1", per_bucket=1)
        assert outcome.result(10) == [(True, "ckpt: serving v1")] * 2
    for updater in updaters:
        assert updater.steps == ["begin", "load", "end"]
        assert {name: tensor.tolist() for name, tensor in updater.loaded.items()} == {n: t.tolist() for n, t in TENSORS.items()}
    assert state() == {"version": "v1", "dirty": False}


def test_a_failure_is_no_success_and_leaves_the_worker_dirty() -> None:
    updater = Updater(broken=True)
    with Rank() as rank:
        outcome = in_thread(lambda: schedule([updater], request(rank)))
        assert rank.attach(TENSORS)["type"] == "ok"
        answers = [
            rank.call("bucket", bucket=i, tensors=rank.put({n: t})) for i, (n, t) in enumerate(list(TENSORS.items())[:3])
        ]
        assert [answer["type"] for answer in answers] == ["ok", "ok", "error"]
        assert "no room for k.b" in answers[2]["error"]["message"]
        rank.send("abort", reason="it failed")
        success, message = outcome.result(10)[0]
    assert not success
    assert "no room for k.b" in message
    assert updater.steps == ["begin", "load", "end"]
    assert state() == {"version": None, "dirty": True}


def test_other_requests_go_their_own_way() -> None:
    asked = SimpleNamespace(zmq_handles={"GPU-1": "ipc://@x"})
    assert schedule([Updater()], asked) == [(True, "SGLang's own way")]


def test_a_call_that_is_no_call_is_refused() -> None:
    for text in ("{", "{}"):
        success, message = schedule([Updater()], SimpleNamespace(zmq_handles={"ckpt": text}))[0]
        assert not success
        assert message.startswith("ProtocolError")


def test_a_call_without_the_key_loads_nothing() -> None:
    updater = Updater()
    with Rank() as rank:
        asked = request(rank)
        for key in ("", "not the key of this test"):
            call = {**json.loads(asked.zmq_handles["ckpt"]), "key": key}
            success, message = schedule([updater], SimpleNamespace(zmq_handles={"ckpt": json.dumps(call)}))[0]
            assert not success
            assert message.startswith("UnauthorizedError")
            assert KEY_VARIABLE in message
    assert updater.steps == []
