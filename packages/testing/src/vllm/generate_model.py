"""Writes tiny models with random weights and a tokenizer of numbers, in the form in which transformers saves any model.

    python generate_model.py REQUESTS.json

REQUESTS.json: a list of {"family", "seed", "directory", "config"?}; ``config`` overrides fields of the model's configuration. Models of one
family differ by their seed in every tensor, norms and biases included. The family "adapter" is a LoRA adapter for "llama".
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast, logging

VOCABULARY = 512
#: Wide enough that logits differ clearly, and greedy tokens do not run into a cycle at once.
SPREAD = 0.3

SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "initializer_range": SPREAD,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "norm_topk_prob": True,
}
#: Qwen2 has no head_dim of its own, and vLLM's CPU backend no attention for heads of 16.
WIDE_HEADS: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 2}
#: Name of a family: transformers' model type, and what differs from SHAPE.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("qwen3", {}),
    "qwen2": ("qwen2", WIDE_HEADS),
    "llama": ("llama", {}),
    "qwen2-tied": ("qwen2", {**WIDE_HEADS, "tie_word_embeddings": True}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "qwen3-moe": ("qwen3_moe", EXPERTS),
}


def write_model(family: str, seed: int, directory: Path, overrides: dict[str, Any]) -> None:
    """One model with all weights drawn from ``seed``."""
    kind, differences = FAMILIES[family]
    config = AutoConfig.for_model(kind, **{**SHAPE, **differences, **overrides})
    config.dtype = torch.bfloat16
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms start as ones and biases as zeros: a stale one would not be seen
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(directory)
    words = {f"<{number}>": number for number in range(config.vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<2>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<0>", eos_token="<1>", unk_token="<2>")
    wrapped.save_pretrained(directory)


def write_adapter(seed: int, directory: Path) -> None:
    """A LoRA adapter, in PEFT's form, that changes answers."""
    rank, hidden, queries, inner = (
        4,
        SHAPE["hidden_size"],
        SHAPE["num_attention_heads"] * SHAPE["head_dim"],
        SHAPE["intermediate_size"],
    )
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(SHAPE["num_hidden_layers"]):
        for module, rows, columns in (("self_attn.q_proj", queries, hidden), ("mlp.down_proj", hidden, inner)):
            prefix = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(rank, columns, generator=generator) * SPREAD
            tensors[f"{prefix}.lora_B.weight"] = torch.randn(rows, rank, generator=generator) * SPREAD
    directory.mkdir()
    save_file(tensors, directory / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["q_proj", "down_proj"], "bias": "none"}
    (directory / "adapter_config.json").write_text(json.dumps(config))


def main() -> None:
    """Writes what the requests ask for."""
    logging.disable_progress_bar()
    for request in json.loads(Path(sys.argv[1]).read_text()):
        if request["family"] == "adapter":
            write_adapter(request["seed"], Path(request["directory"]))
        else:
            write_model(request["family"], request["seed"], Path(request["directory"]), request.get("config", {}))


if __name__ == "__main__":
    main()
