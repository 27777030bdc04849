"""vLLM's own layers in FP8 blocks, as its kernels for GPUs leave them: what is loaded in place, rehearsed and copied by routes,
held against a model that vLLM loads and processes itself.

    python fp8_blocks.py MODEL KERNEL SCALES ANSWER.json

MODEL: directory with a config.json of a Qwen3 MoE in FP8 blocks. KERNEL: class of the linear layers' kernel. SCALES: element type
of the checkpoint's scales. Nothing is computed with the weights: the kernels' processing after loading is the same without a GPU.
ANSWER.json: {"refusal", "opaque", "routes", "different": {way: [parameters]}, "loaded": tensors that the loader had in each
update by routes, "moved": [parameters whose object or memory is another one]}.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ckpt_worker.engines.vllm.layerwise import LayerwiseLoad, reload_tools
from ckpt_worker.engines.vllm.rehearse import rehearse
from ckpt_worker.engines.vllm.target import Target
from ckpt_worker.loading.digest import flat_bytes
from ckpt_worker.loading.torch_dtypes import DTYPE_NAMES
from ckpt_worker.protocol.messages import TensorEntry
from ckpt_worker.recording import DirectState, Rehearsal
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.kernels import linear
from vllm.model_executor.layers.fused_moe.oracle import fp8 as experts
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.quantization import fp8
from vllm.model_executor.model_loader.reload.layerwise import (
    record_metadata_for_reloading,
)
from vllm.model_executor.model_loader.utils import (
    initialize_model,
    process_weights_after_loading,
)
from vllm.platforms import PlatformEnum

Named = tuple[str, torch.Tensor]
BLOCK = 128
#: Tensors a bucket: layers are split over several.
BUCKET = 7


def as_on_gpus(kernel: str) -> None:
    """Lets vLLM take kernels of GPUs for FP8, and leaves other layers as it does there."""
    chosen = getattr(linear, kernel)
    chosen.is_supported = classmethod(lambda cls, capability=None: (True, None))
    linear._POSSIBLE_FP8_BLOCK_KERNELS[PlatformEnum.CPU] = [chosen]
    backend = experts.Fp8MoeBackend.TRITON
    found: Any = experts.backend_to_kernel_cls(backend)
    fp8.select_fp8_moe_backend = lambda *_, **__: (
        backend,
        found[0] if isinstance(found, (list, tuple)) else found,
    )
    UnquantizedLinearMethod.process_weights_after_loading = lambda self, layer: None


def checkpoint(config: dict[str, Any], seed: int, scale: torch.dtype) -> list[Named]:
    """Random weights, with the bytes of FP8 as they come, and positive scales."""
    generator = torch.Generator().manual_seed(seed)
    found: list[Named] = []
    hidden, inner, head = (
        config["hidden_size"],
        config["moe_intermediate_size"],
        config["head_dim"],
    )
    queries, keys = (
        config["num_attention_heads"] * head,
        config["num_key_value_heads"] * head,
    )

    def plain(name: str, *shape: int) -> None:
        found.append(
            (
                f"{name}.weight",
                torch.randn(shape, generator=generator).to(torch.bfloat16),
            )
        )

    def blocks(name: str, rows: int, columns: int) -> None:
        found.append(
            (
                f"{name}.weight",
                torch.randn(rows, columns, generator=generator).to(torch.float8_e4m3fn),
            )
        )
        scales = torch.rand(
            -(-rows // BLOCK),
            -(-columns // BLOCK),
            generator=generator,
            dtype=torch.float32,
        )
        found.append((f"{name}.weight_scale_inv", scales.to(scale)))

    plain("model.embed_tokens", config["vocab_size"], hidden)
    plain("lm_head", config["vocab_size"], hidden)
    plain("model.norm", hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        for name in ("input_layernorm", "post_attention_layernorm"):
            plain(f"{prefix}.{name}", hidden)
        for name in ("q_norm", "k_norm"):
            plain(f"{prefix}.self_attn.{name}", head)
        for name, rows, columns in (
            ("q", queries, hidden),
            ("k", keys, hidden),
            ("v", keys, hidden),
            ("o", hidden, queries),
        ):
            blocks(f"{prefix}.self_attn.{name}_proj", rows, columns)
        plain(f"{prefix}.mlp.gate", config["num_experts"], hidden)
        for expert in range(config["num_experts"]):
            for name, rows, columns in (
                ("gate", inner, hidden),
                ("up", inner, hidden),
                ("down", hidden, inner),
            ):
                blocks(f"{prefix}.mlp.experts.{expert}.{name}_proj", rows, columns)
    return found


def contents(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Bytes of all parameters."""
    return {
        name: flat_bytes(parameter.data.contiguous()).clone()
        for name, parameter in model.named_parameters()
    }


def different(model: torch.nn.Module, expected: dict[str, torch.Tensor]) -> list[str]:
    """Names of parameters that are not as expected."""
    found = contents(model)
    return sorted(
        name
        for name in found | expected
        if not torch.equal(found[name], expected[name])
    )


class Trial:
    """A served model, and the ways to give it new weights."""

    def __init__(self, model: torch.nn.Module, config: VllmConfig) -> None:
        self.model = model
        self.targets = [Target(model, config.model_config, True)]
        self.state = DirectState(
            self._parameters, unshared="only one process", rehearse=self._rehearse
        )

    def _parameters(self) -> dict[str, torch.Tensor]:
        return {
            name: parameter.data for name, parameter in self.model.named_parameters()
        }

    def _rehearse(self, rehearsal: Rehearsal, named: Sequence[Named]) -> Any:
        return rehearse(self.targets, rehearsal, named)

    def load(self) -> LayerwiseLoad:
        """Opens a load."""
        tools = reload_tools()
        assert tools is not None
        return LayerwiseLoad(self.targets, tools)

    def stage(self, tensors: list[Named]) -> None:
        """Loads by vLLM's loaders."""
        load = self.load()
        for first in range(0, len(tensors), BUCKET):
            load.load(iter(tensors[first : first + BUCKET]))
        load.finish()

    def replay(self, tensors: list[Named]) -> int:
        """Copies by routes and casts; returns the number of tensors that are left for the loader, as a worker does it."""
        recording = self.state.recording
        assert recording is not None
        self.state.begin(recording.id)
        load, replay, casts = self.load(), self.state.replay(), self.state.casts()
        load.begin_direct()
        count = 0
        for name, tensor in tensors:
            ring = flat_bytes(tensor.contiguous()).clone()
            entry = TensorEntry(
                name, DTYPE_NAMES[tensor.dtype], list(tensor.shape), 0, ring.numel()
            )
            opaque = [(name, tensor)] if name in replay.run(ring, [entry]) else []
            left = casts.run(ring, [entry], opaque)
            load.load(iter(left))
            casts.compare(ring, [entry])
            count += len(left)
        load.finish()
        return count


def main(directory: str, kernel: str, scales: str, answer: str) -> None:
    """Runs all of it."""
    as_on_gpus(kernel)
    config = json.loads((Path(directory) / "config.json").read_text())
    scale: torch.dtype = getattr(torch, scales)
    vllm = EngineArgs(
        model=directory, skip_tokenizer_init=True, enforce_eager=True, max_model_len=256
    ).create_engine_config()

    def loaded(seed: int) -> torch.nn.Module:
        vllm.compilation_config.static_forward_context.clear()
        model = initialize_model(vllm)
        record_metadata_for_reloading(model)
        model.load_weights(iter(checkpoint(config, seed, scale)))
        process_weights_after_loading(model, vllm.model_config, torch.device("cpu"))
        return model

    torch.set_default_dtype(torch.bfloat16)
    with set_current_vllm_config(vllm), torch.no_grad():
        init_distributed_environment(1, 0, "tcp://127.0.0.1:0", 0, "gloo")
        initialize_model_parallel(1, 1)
        expected = {seed: contents(loaded(seed)) for seed in (1, 2, 3)}
        trial = Trial(loaded(1), vllm)
        objects = {
            name: (parameter, parameter.data_ptr())
            for name, parameter in trial.model.named_parameters()
        }
        described = [
            (name, DTYPE_NAMES[tensor.dtype], list(tensor.shape))
            for name, tensor in checkpoint(config, 1, scale)
        ]
        refusal = trial.state.rehearse(described)
        ways = {"rehearsed": different(trial.model, expected[1])}
        trial.stage(checkpoint(config, 2, scale))
        ways["loaded in place"] = different(trial.model, expected[2])
        recording = trial.state.recording
        loaded_by_loader: list[int] = []
        if recording is not None:
            for seed in (3, 2):
                loaded_by_loader.append(trial.replay(checkpoint(config, seed, scale)))
                ways[f"copied, {seed}"] = different(trial.model, expected[seed])
        now = dict(trial.model.named_parameters())
        found = {
            "refusal": refusal,
            "opaque": 0 if recording is None else len(recording.opaque),
            "routes": 0 if recording is None else len(recording.routes),
            "different": ways,
            "loaded": loaded_by_loader,
            "moved": [
                name
                for name, (old, at) in objects.items()
                if now[name] is not old or old.data_ptr() != at
            ],
        }
    Path(answer).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
