"""What vLLM itself says with weights that it loads from disk: greedy tokens and log probabilities, one request after the other.

    python expected.py REQUESTS.json ANSWERS.json

REQUESTS.json: {"models": [directories], "prompts": [[token ids]], "tokens", "tensorParallelSize", "options", "adapter"?: directory}. ANSWERS.json has, for each
model and prompt, {"tokens", "logprobs"}; log probabilities as texts, in the digits in which the server prints them.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

from vllm import LLM, SamplingParams
from vllm.distributed.parallel_state import cleanup_dist_env_and_memory
from vllm.lora.request import LoRARequest


def complete(llm: LLM, prompt: list[int], tokens: int, adapter: LoRARequest | None) -> dict[str, list[str]]:
    """One request, as the completions endpoint answers it."""
    parameters = SamplingParams(temperature=0, max_tokens=tokens, logprobs=0, ignore_eos=True)
    output = llm.generate([{"prompt_token_ids": prompt}], parameters, use_tqdm=False, lora_request=adapter)[0].outputs[0]
    pairs = list(zip(output.token_ids, output.logprobs, strict=True))
    return {
        "tokens": [f"<{token}>" for token, _ in pairs],
        "logprobs": [json.dumps(entries[token].logprob) for token, entries in pairs],
    }


def answers(model: str, request: dict[str, Any]) -> list[dict[str, list[str]]]:
    """Every prompt's answer of one model."""
    parallel = request["tensorParallelSize"]
    llm = LLM(
        model=model,
        enforce_eager=True,
        max_model_len=256,
        max_num_seqs=4,
        kv_cache_memory_bytes=64 * 2**20,
        tensor_parallel_size=parallel,
        distributed_executor_backend="uni" if parallel == 1 else "mp",
        **request.get("options", {}),
    )
    adapter = LoRARequest("adapter", 1, request["adapter"]) if "adapter" in request else None
    result = [complete(llm, prompt, request["tokens"], adapter) for prompt in request["prompts"]]
    llm.llm_engine.engine_core.shutdown()
    del llm
    gc.collect()
    cleanup_dist_env_and_memory()
    return result


def main() -> None:
    """Answers for all models."""
    request = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps([answers(model, request) for model in request["models"]]))


if __name__ == "__main__":
    main()
