"""NeMo-RL's and slime's interfaces, in the order in which they are called; neither package is needed for it."""

from __future__ import annotations

import asyncio
import importlib
import secrets
import socket
import sys
import types
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from ckpt import CkptError
from ckpt.integrations import slime
from client_parts import digests_of, weights

pytestmark = pytest.mark.usefixtures("rank_program")


class Base(ABC):
    """The methods that NeMo-RL's ``CheckpointEngine`` wants, at commit 7ea279abfbeb."""

    shard_expert_weights = False

    @abstractmethod
    def prepare(self) -> Any: ...

    @abstractmethod
    def init_policy_process_group(
        self, *, worker_rank: int, train_world_size: int, rollout_world_size: int, metadata: list[Any]
    ) -> None: ...

    @abstractmethod
    def init_rollout_process_group(
        self, *, rollout_rank: int, train_world_size: int, rollout_world_size: int, metadata: list[Any]
    ) -> None: ...

    @abstractmethod
    async def send_weights(self, weights: Any) -> None: ...

    @abstractmethod
    def receive_weight_batches(self) -> AsyncGenerator[list[tuple[str, torch.Tensor]], None]: ...


@pytest.fixture
def nemo_rl(monkeypatch: pytest.MonkeyPatch) -> Any:
    base = types.ModuleType("nemo_rl.utils.checkpoint_engines.base")
    base.CheckpointEngine = Base  # type: ignore[attr-defined]
    for name in ("nemo_rl", "nemo_rl.utils", "nemo_rl.utils.checkpoint_engines"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, base.__name__, base)
    monkeypatch.delitem(sys.modules, "ckpt.integrations.nemo_rl", raising=False)
    return importlib.import_module("ckpt.integrations.nemo_rl")


def test_nemo_rl_gets_batches_in_every_rollout_worker_and_every_policy_worker_makes_all_tensors(nemo_rl: Any) -> None:
    make = nemo_rl.CkptCheckpointEngine
    with pytest.raises(ValueError, match="shard_expert_weights"):
        make(bucket_size=1 << 20, shard_expert_weights=True)
    engines = [make(bucket_size=1 << 10, release_after_refit=True, device="cpu", timeout=60) for _ in range(3)]
    policies, rollout = engines[:2], engines[2]
    made: list[str] = []

    def export(step: int) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in weights(step).items():
            made.append(name)
            yield name, tensor

    async def receive() -> dict[str, torch.Tensor]:
        return {name: tensor async for batch in rollout.receive_weight_batches() for name, tensor in batch}

    with ThreadPoolExecutor(3) as threads:
        for step in (1, 2):
            metadata = [engine.prepare() for engine in engines]
            sizes = {"train_world_size": 2, "rollout_world_size": 1, "metadata": metadata}
            joins = [threads.submit(one.init_policy_process_group, worker_rank=i, **sizes) for i, one in enumerate(policies)]
            joins.append(threads.submit(rollout.init_rollout_process_group, rollout_rank=0, **sizes))
            for join in joins:
                join.result(120)
            received = threads.submit(asyncio.run, receive())
            sends = [threads.submit(asyncio.run, one.send_weights(export(step))) for one in policies]
            assert digests_of(received.result(120)) == digests_of(weights(step))
            for send in sends:
                send.result(120)
            for engine in engines:
                engine.finalize()
    assert sorted(made) == sorted([*weights(1), *weights(2)] * 2)


def test_slime_version_directories_appear_whole_on_the_engines_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    monkeypatch.setenv("CKPT_TOKEN", secrets.token_hex(32))
    with pytest.raises(CkptError, match="CKPT_PUBLISH is not set"):
        slime.publish(None, str(tmp_path), [])
    monkeypatch.setenv("CKPT_PUBLISH", address)
    monkeypatch.setenv("CKPT_PUBLISHED", address)
    written, fetched = tmp_path / "trainer", tmp_path / "engine"
    contents = {"model.safetensors.index.json": b"{}", "delta/model-1.zst": secrets.token_bytes(100_000), "empty": b""}
    try:
        for version in (1, 2, 3):
            directory = written / f"weight_v{version:06d}"
            for name, data in contents.items():
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                (directory / name).write_bytes(data + bytes([version]) * (name != "empty"))
            monkeypatch.setenv("LOCAL_RANK", "1")
            slime.publish(None, "/nonexistent", [])  # not the machine's first process
            monkeypatch.setenv("LOCAL_RANK", "0")
            slime.publish(None, str(directory), [])
            slime.fetch(str(fetched), version)
            there = fetched / directory.name
            found = {path.relative_to(there).as_posix(): path.read_bytes() for path in there.rglob("*") if path.is_file()}
            assert found == {name: data + bytes([version]) * (name != "empty") for name, data in contents.items()}
            slime.fetch(str(fetched), version)
        with pytest.raises(CkptError):
            slime.fetch(str(fetched), 9)
        assert sorted(path.name for path in fetched.iterdir()) == [f"weight_v{version:06d}" for version in (1, 2, 3)]
    finally:
        if slime._publisher is not None:
            slime._publisher.close()
        slime._publisher = None
        slime._published.clear()
