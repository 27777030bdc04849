"""Our classes have the methods, arguments and defaults of the packages that they stand beside."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import checkpoint_engine.api
import checkpoint_engine.ps
import pytest
import verl.checkpoint_engine.base as verl_base
from trl.experimental.async_grpo.async_grpo_trainer import WeightTransferProtocol

import ckpt.compat.checkpoint_engine as compat
from ckpt.integrations.trl import WeightTransfer
from ckpt.integrations.verl import CkptCheckpointEngine


def arguments(function: object) -> list[tuple[str, object, object]]:
    parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    return [(one.name, one.kind, one.default) for one in parameters]


def public(kind: type) -> list[str]:
    return [name for name, value in vars(kind).items() if inspect.isfunction(value) and not name.startswith("_")]


def test_checkpoint_engine() -> None:
    theirs, ours = checkpoint_engine.ps.ParameterServer, compat.ParameterServer
    for name in ["__init__", *public(theirs)]:
        assert arguments(getattr(ours, name)) == arguments(getattr(theirs, name)), name
    assert ours.shared_memory_pool_name == theirs.shared_memory_pool_name
    request = checkpoint_engine.api.request_inference_to_update
    assert arguments(compat.request_inference_to_update) == arguments(request)


def test_verl() -> None:
    assert verl_base.CheckpointEngineRegistry.get("ckpt") is CkptCheckpointEngine
    abstract = verl_base.CheckpointEngine.__abstractmethods__
    assert set(public(CkptCheckpointEngine)) | {"build_topology"} == abstract
    for name in ("send_weights", "receive_weights", "prepare", "finalize"):
        assert arguments(getattr(CkptCheckpointEngine, name)) == arguments(getattr(verl_base.CheckpointEngine, name)), name


def test_trl() -> None:
    for name in public(WeightTransferProtocol):
        assert arguments(getattr(WeightTransfer, name)) == arguments(getattr(WeightTransferProtocol, name)), name


#: A program like checkpoint-engine's examples/update.py, in which only one import was changed.
EXAMPLE = """
import checkpoint_engine.distributed as dist
from checkpoint_engine import request_inference_to_update
from ckpt.compat.checkpoint_engine import ParameterServer
import torch

ps = ParameterServer(auto_pg=True)
dist.use_backend(None)
ps.init_process_group()
dist.barrier()
ps.register_checkpoint("x", files=[], named_tensors={"w": torch.ones(3)} if ps._rank == 0 else {})
dist.barrier()
ps.gather_metas("x")
print(ps.server.get_metas("x").tensors, dist.is_initialized())
try:
    ps.update("x", lambda sockets: request_inference_to_update("http://127.0.0.1:1/collective_rpc", dict(sockets)))
except Exception as error:
    print(error)
print(dist.is_initialized())
"""


@pytest.mark.usefixtures("rank_program")
def test_a_program_with_one_changed_import_runs_to_the_update_which_needs_a_gpu(tmp_path: Path) -> None:
    (tmp_path / "update.py").write_text(EXAMPLE)
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29721"]
    command = [sys.executable, *torchrun, tmp_path / "update.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("1 True") == 2
    assert "CUDA memory" in done.stdout
    assert done.stdout.count("False") == 2
