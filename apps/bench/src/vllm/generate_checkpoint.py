"""Writes a Qwen3 checkpoint with random weights that a real engine loads.

    python generate_checkpoint.py SHAPE.json DIRECTORY SEED GPU

SHAPE.json holds what ``shapes.ts`` chose. Weights are made on the GPU of that index, on the CPU where it is -1. Checkpoints of
one shape differ by their seed in every tensor, norms included. Prints one JSON object with the number of tensors and their bytes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

#: Edge of the square blocks that share a scale in FP8 checkpoints, and the largest value of the format.
BLOCK = 128
LARGEST_FP8 = 448.0


class Weights:
    """Random tensors from one seed."""

    def __init__(self, seed: int, gpu: int) -> None:
        self._device = torch.device("cpu") if gpu < 0 else torch.device("cuda", gpu)
        self._generator = torch.Generator(device=self._device).manual_seed(seed)

    def normal(self, *shape: int, spread: float = 0.03) -> torch.Tensor:
        """A tensor around zero."""
        return (torch.randn(*shape, generator=self._generator, device=self._device) * spread).to(torch.bfloat16)

    def norm(self, size: int) -> torch.Tensor:
        """Weights of a norm, around one."""
        return (1 + torch.randn(size, generator=self._generator, device=self._device) * 0.2).to(torch.bfloat16)


def in_blocks(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensor as FP8, with a scale for each block."""
    rows, columns = tensor.shape
    blocks = tensor.float().view(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
    scales = blocks.abs().amax(dim=(1, 3)).clamp(min=1e-6) / LARGEST_FP8
    yield name, (blocks / scales[:, None, :, None]).view(rows, columns).to(torch.float8_e4m3fn)
    yield f"{name}_scale_inv", scales.contiguous()


def linear(shape: dict[str, Any], name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """A linear layer's weight in the checkpoint's form."""
    if shape["quantization"] == "fp8-block":
        yield from in_blocks(name, tensor)
    else:
        yield name, tensor


def layer_tensors(shape: dict[str, Any], layer: int, weights: Weights) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors of one layer."""
    hidden, head = shape["hidden"], shape["headDim"]
    queries, keys = shape["heads"] * head, shape["keyHeads"] * head
    prefix = f"model.layers.{layer}"
    for name in ("input_layernorm", "post_attention_layernorm"):
        yield f"{prefix}.{name}.weight", weights.norm(hidden)
    for name, rows, columns in (
        ("q_proj", queries, hidden),
        ("k_proj", keys, hidden),
        ("v_proj", keys, hidden),
        ("o_proj", hidden, queries),
    ):
        yield from linear(shape, f"{prefix}.self_attn.{name}.weight", weights.normal(rows, columns))
    for name in ("q_norm", "k_norm"):
        yield f"{prefix}.self_attn.{name}.weight", weights.norm(head)
    if shape["experts"] == 0:
        yield from feed_forward(shape, f"{prefix}.mlp", weights)
        return
    yield f"{prefix}.mlp.gate.weight", weights.normal(shape["experts"], hidden)
    for expert in range(shape["experts"]):
        yield from feed_forward(shape, f"{prefix}.mlp.experts.{expert}", weights)


def feed_forward(shape: dict[str, Any], prefix: str, weights: Weights) -> Iterator[tuple[str, torch.Tensor]]:
    """One feed-forward network."""
    hidden, inner = shape["hidden"], shape["intermediate"]
    for name, rows, columns in (("gate_proj", inner, hidden), ("up_proj", inner, hidden), ("down_proj", hidden, inner)):
        yield from linear(shape, f"{prefix}.{name}.weight", weights.normal(rows, columns))


def outer_tensors(shape: dict[str, Any], weights: Weights) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors outside of layers."""
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        yield name, weights.normal(shape["vocabulary"], shape["hidden"], spread=0.3)
    yield "model.norm.weight", weights.norm(shape["hidden"])


def configuration(shape: dict[str, Any]) -> dict[str, Any]:
    """``config.json``."""
    experts = shape["experts"]
    common = {
        "architectures": ["Qwen3MoeForCausalLM" if experts else "Qwen3ForCausalLM"],
        "model_type": "qwen3_moe" if experts else "qwen3",
        "hidden_size": shape["hidden"],
        "intermediate_size": shape["intermediate"],
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["keyHeads"],
        "head_dim": shape["headDim"],
        "vocab_size": shape["vocabulary"],
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "torch_dtype": "bfloat16",
        "use_sliding_window": False,
    }
    if experts:
        common |= {
            "moe_intermediate_size": shape["intermediate"],
            "num_experts": experts,
            "num_experts_per_tok": min(8, experts // 2),
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }
    if shape["quantization"] == "fp8-block":
        layers = range(shape["layers"])
        gates = [f"model.layers.{layer}.mlp.gate" for layer in layers] if experts else []
        common["quantization_config"] = {
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "weight_block_size": [BLOCK, BLOCK],
            "modules_to_not_convert": ["lm_head", *gates],
        }
    return common


def write_tokenizer(vocabulary: int, directory: Path) -> None:
    """A tokenizer whose words are ``<0>``, ``<1>`` …"""
    words = {f"<{number}>": number for number in range(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<2>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<0>", eos_token="<1>", unk_token="<2>").save_pretrained(
        directory
    )


def main(shape: dict[str, Any], directory: Path, seed: int, gpu: int) -> None:
    """Writes one file for each layer, and one for the rest."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = Weights(seed, gpu)
    index: dict[str, str] = {}
    total = 0
    for layer in range(-1, shape["layers"]):
        made = outer_tensors(shape, weights) if layer < 0 else layer_tensors(shape, layer, weights)
        tensors = {name: tensor.cpu().contiguous() for name, tensor in made}
        file = f"model-{layer + 1:05d}.safetensors"
        save_file(tensors, directory / file, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, file)
        total += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    (directory / "config.json").write_text(json.dumps(configuration(shape)))
    described = {"metadata": {"total_size": total}, "weight_map": index}
    (directory / "model.safetensors.index.json").write_text(json.dumps(described))
    write_tokenizer(shape["vocabulary"], directory)
    print(json.dumps({"tensors": len(index), "bytes": total}))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
