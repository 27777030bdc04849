"""Two processes of torchrun with FSDP2: their sharded state is gathered, and together they update the engines."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from client_parts import digests_of, engine_worker

#: Odd sizes: the shards of the two processes differ, and the last tensor is on one of them alone.
MODEL = """
import torch
def model():
    torch.manual_seed(7)
    return torch.nn.Sequential(torch.nn.Linear(5, 33), torch.nn.LayerNorm(33), torch.nn.Linear(33, 1, bias=True))
"""
PROGRAM = """
import sys, torch
from torch.distributed.fsdp import fully_shard
from ckpt import CkptError, ParameterServer, control_engine, gather
torch.distributed.init_process_group("gloo")
model = fully_shard(model())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with ParameterServer(device="cpu", insecure=True, timeout=60) as ps:
    for step in range(3):
        model(torch.ones(2, 5)).sum().backward(), optimizer.step(), optimizer.zero_grad()
        ps.register_checkpoint(f"{step}", named_tensors=model.state_dict())
        report = ps.update(f"{step}", engine=control_engine(sys.argv[1 + ps.rank]))
        sys.stdout.write(f"<{ps.rank}: {report.tensors}>"), sys.stdout.flush()
whole = {name: tensor.full_tensor() for name, tensor in model.state_dict().items()}
torch.save(whole, sys.argv[3]) if ps.rank == 0 else None
kept = gather(model.state_dict(), ranks=[1])
assert list(kept) == (list(whole) if ps.rank == 1 else []), list(kept)
if ps.rank == 1:
    with ParameterServer(device="cpu", rank=0, world_size=1, insecure=True) as alone:
        try:
            alone.register_checkpoint("x", named_tensors=model.state_dict())
        except CkptError as error:
            print(error, flush=True)
torch.distributed.destroy_process_group()
"""


@pytest.mark.usefixtures("rank_program")
def test_a_sharded_state_is_gathered_by_the_ranks_and_every_engine_has_every_bit(tmp_path: Path) -> None:
    program, weights = tmp_path / "train.py", tmp_path / "weights.pt"
    program.write_text(MODEL + PROGRAM)
    with engine_worker() as one, engine_worker() as other:
        run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
        done = subprocess.run(
            [*run, "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", program, one.path, other.path, weights],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        # Six tensors, of which each process registered a part: a rank's report counts those of all.
        assert sorted(re.findall(r"<(\d: \d+)>", done.stdout)) == ["0: 6"] * 3 + ["1: 6"] * 3
        expected = digests_of(torch.load(weights))
        assert (one.digests, other.digests) == (expected, expected)
    assert "sharded over 2 processes, but there are 1 ranks: call ckpt.gather" in done.stdout
