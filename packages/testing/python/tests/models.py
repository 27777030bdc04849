"""Tiny models with the names of real ones, and their parameters sliced by numpy, independent of the reference engine."""

from __future__ import annotations

import numpy as np
import torch

HIDDEN, HEADS, KV_HEADS, HEAD, INTERMEDIATE, EXPERTS, VOCABULARY, BLOCK = 32, 8, 4, 4, 64, 4, 48, 8


def _bf16(*shape: int) -> torch.Tensor:
    return torch.randint(-(2**15), 2**15, shape, dtype=torch.int16).view(torch.bfloat16)


def _fp8(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8).view(torch.float8_e4m3fn)


def _scale(rows: int, columns: int) -> torch.Tensor:
    return torch.rand(rows // BLOCK, columns // BLOCK)


def checkpoint() -> dict[str, torch.Tensor]:
    """A dense layer in BF16 and a Mixture-of-Experts layer in FP8 with block scales, in checkpoint order and names."""
    tensors = {"model.embed_tokens.weight": _bf16(VOCABULARY, HIDDEN)}
    for layer in range(2):
        attention = f"model.layers.{layer}.self_attn"
        tensors |= {
            f"{attention}.q_proj.weight": _bf16(HEADS * HEAD, HIDDEN),
            f"{attention}.q_proj.bias": _bf16(HEADS * HEAD),
            f"{attention}.v_proj.weight": _bf16(KV_HEADS * HEAD, HIDDEN),
            f"{attention}.k_proj.weight": _bf16(KV_HEADS * HEAD, HIDDEN),
            f"{attention}.k_proj.bias": _bf16(KV_HEADS * HEAD),
            f"{attention}.v_proj.bias": _bf16(KV_HEADS * HEAD),
            f"{attention}.o_proj.weight": _bf16(HIDDEN, HEADS * HEAD),
            f"model.layers.{layer}.input_layernorm.weight": _bf16(HIDDEN),
        }
    tensors |= {
        "model.layers.0.mlp.up_proj.weight": _bf16(INTERMEDIATE, HIDDEN),
        "model.layers.0.mlp.gate_proj.weight": _bf16(INTERMEDIATE, HIDDEN),
        "model.layers.0.mlp.down_proj.weight": _bf16(HIDDEN, INTERMEDIATE),
        "model.layers.1.mlp.gate.weight": torch.rand(EXPERTS, HIDDEN),
    }
    for expert in reversed(range(EXPERTS)):
        prefix = f"model.layers.1.mlp.experts.{expert}"
        for part, rows, columns in (
            ("down", HIDDEN, INTERMEDIATE),
            ("gate", INTERMEDIATE, HIDDEN),
            ("up", INTERMEDIATE, HIDDEN),
        ):
            tensors[f"{prefix}.{part}_proj.weight"] = _fp8(rows, columns)
            tensors[f"{prefix}.{part}_proj.weight_scale_inv"] = _scale(rows, columns)
    tensors["lm_head.weight"] = _bf16(VOCABULARY, HIDDEN)
    return tensors


def expected(tensors: dict[str, torch.Tensor], rank: int, size: int) -> dict[str, bytes]:
    """Bytes of every parameter of one tensor-parallel rank."""

    def array(name: str) -> np.ndarray:  # type: ignore[type-arg]
        tensor = tensors[name]
        integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[tensor.element_size()]
        return tensor.view(integer).numpy()

    def split(name: str, axis: int) -> np.ndarray:  # type: ignore[type-arg]
        return np.array_split(array(name), size, axis=axis)[rank]

    result: dict[str, bytes] = {
        "model.embed_tokens.weight": split("model.embed_tokens.weight", 0).tobytes(),
        "lm_head.weight": split("lm_head.weight", 0).tobytes(),
        "model.layers.1.mlp.gate.weight": array("model.layers.1.mlp.gate.weight").tobytes(),
        "model.layers.0.mlp.down_proj.weight": split("model.layers.0.mlp.down_proj.weight", 1).tobytes(),
        "model.layers.0.mlp.gate_up_proj.weight": np.vstack(
            [split(f"model.layers.0.mlp.{part}_proj.weight", 0) for part in ("gate", "up")]
        ).tobytes(),
    }
    for layer in range(2):
        prefix = f"model.layers.{layer}"
        for kind in ("weight", "bias"):
            result[f"{prefix}.self_attn.qkv_proj.{kind}"] = np.concatenate(
                [split(f"{prefix}.self_attn.{part}_proj.{kind}", 0) for part in "qkv"]
            ).tobytes()
        result[f"{prefix}.self_attn.o_proj.weight"] = split(f"{prefix}.self_attn.o_proj.weight", 1).tobytes()
        result[f"{prefix}.input_layernorm.weight"] = array(f"{prefix}.input_layernorm.weight").tobytes()
    experts = [f"model.layers.1.mlp.experts.{expert}" for expert in range(EXPERTS)]
    for kind in ("weight", "weight_scale_inv"):
        result[f"model.layers.1.mlp.experts.w13_{kind}"] = np.stack(
            [np.vstack([split(f"{expert}.{part}_proj.{kind}", 0) for part in ("gate", "up")]) for expert in experts]
        ).tobytes()
        result[f"model.layers.1.mlp.experts.w2_{kind}"] = np.stack(
            [split(f"{expert}.down_proj.{kind}", 1) for expert in experts]
        ).tobytes()
    return result
