"""TRL's own AsyncGRPOTrainer drives the weight transfer. Its attention needs a GPU: here steps are the optimizer's alone."""

from __future__ import annotations

import queue
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl.experimental.async_grpo import AsyncGRPOConfig, AsyncGRPOTrainer

from ckpt import CkptError, local_engine
from ckpt.integrations.trl import WeightTransfer
from client_parts import digests_of

pytestmark = pytest.mark.usefixtures("rank_program")


class NoRollouts:
    """A rollout worker that makes nothing, and notes what it is told."""

    def __init__(self) -> None:
        self.rollout_buffer: queue.Queue[Any] = queue.Queue()
        self.metrics_queue: queue.Queue[Any] = queue.Queue()
        self.versions: list[int] = []

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def update_model_version(self, model_version: int) -> None:
        self.versions.append(model_version)

    def check_health(self, stale_after_s: float) -> None: ...


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of some thousand parameters, with the first ten words of a vocabulary."""
    directory = tmp_path_factory.mktemp("model")
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    Qwen2ForCausalLM(Qwen2Config(vocab_size=32, num_key_value_heads=1, tie_word_embeddings=False, **sizes)).save_pretrained(
        directory
    )
    words = models.WordLevel({f"w{i}": i for i in range(30)} | {"<eos>": 30, "<unk>": 31}, unk_token="<unk>")
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(words),
        eos_token="<eos>",
        pad_token="<eos>",
        unk_token="<unk>",
        chat_template="{{ messages }}",
    ).save_pretrained(directory)
    return directory


def test_its_trainer_updates_an_engine_at_the_beginning_and_after_steps(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It asks the GPU for its name, to know how fast it is.
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "none")
    kept: dict[str, torch.Tensor] = {}
    versions: list[str] = []

    def load(tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        kept.update({name: tensor.clone() for name, tensor in tensors})

    transfer = WeightTransfer(local_engine(load, commit=versions.append), device="cpu", timeout=60)
    with pytest.raises(CkptError, match="init_weight_transfer was not called"):
        transfer.send_weights(iter([]))
    rollouts = NoRollouts()
    options = {"output_dir": str(tmp_path), "use_cpu": True, "report_to": [], "bf16": False, "gradient_checkpointing": False}
    trainer = AsyncGRPOTrainer(
        model=str(model),
        reward_funcs=lambda **_: [0.0],
        args=AsyncGRPOConfig(**options, max_steps=3, weight_sync_steps=1, dtype="float32"),
        train_dataset=Dataset.from_dict({"prompt": [[{"role": "user", "content": "w1"}]]}),
        rollout_worker=rollouts,
        weight_transfer=transfer,
    )

    def state() -> dict[str, torch.Tensor]:
        return {name: parameter.detach() for name, parameter in trainer.model.named_parameters()}

    handler, args = trainer.callback_handler, trainer.args
    # One of them logs the times of a step of its own.
    handler.callbacks = [one for one in handler.callbacks if getattr(one, "fn", None) != trainer._log_step_metrics]
    handler.on_train_begin(args, trainer.state, trainer.control)
    assert digests_of(kept) == digests_of(state())
    optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.1)
    for step in (1, 2, 3):
        before = digests_of(state())
        for parameter in trainer.model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        trainer.state.global_step = step
        handler.on_step_end(args, trainer.state, trainer.control)
        assert digests_of(kept) == digests_of(state()) != before
    assert rollouts.versions == [1, 2, 3, 4]
    assert versions == ["step-1", "step-2", "step-3", "step-4"]
    assert transfer.version == 4
    handler.on_train_end(args, trainer.state, trainer.control)
    transfer.destroy()
    transfer.destroy()
