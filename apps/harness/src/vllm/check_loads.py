"""What ckpt_worker loads into a vLLM model, held against what vLLM itself loads from disk: parameter by parameter, in one process.

    python check_loads.py REQUEST.json ANSWER.json

REQUEST.json: {"model": directory of the model to start with, "updates": [directories], "options": of vLLM}. The first update is staged, the second
staged and recorded, those after it are replayed by the recording. ANSWER.json has for each update {"how", "error"?, "different": [names of
parameters that are not as from disk], "opaque": {reason: count}, "parameters": count}. An error ends the list.
"""

from __future__ import annotations

import gc
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from ckpt_worker.loading.digest import digest, flat_bytes
from ckpt_worker.loading.torch_dtypes import DTYPE_NAMES
from ckpt_worker.protocol.messages import TensorEntry
from ckpt_worker.engines.vllm.target import Target
from ckpt_worker.engines.vllm.update import Served
from ckpt_worker.engines.vllm.loads import open_load
from safetensors.torch import load_file
from vllm import LLM
from vllm.config import set_current_vllm_config
from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

Named = tuple[str, torch.Tensor]
#: Tensors a bucket: layers are split over several.
BUCKET = 5


def buckets(directory: str) -> Iterator[tuple[torch.Tensor, list[TensorEntry], list[Named]]]:
    """A model's tensors, a few at a time, in a ring that is overwritten every time."""
    tensors = [*load_file(Path(directory) / "model.safetensors").items()]
    size = max(sum(-(-t.nbytes // 64) * 64 for _, t in tensors[i : i + BUCKET]) for i in range(len(tensors)))
    ring = torch.zeros(size, dtype=torch.uint8)
    for first in range(0, len(tensors), BUCKET):
        ring.fill_(0xA5)
        entries, named, end = [], [], 0
        for name, tensor in tensors[first : first + BUCKET]:
            view = ring[end : end + tensor.nbytes]
            view.copy_(flat_bytes(tensor.contiguous()))
            entries.append(TensorEntry(name, DTYPE_NAMES[tensor.dtype], list(tensor.shape), end, tensor.nbytes))
            named.append((name, view.view(tensor.dtype).view(tensor.shape)))
            end += -(-tensor.nbytes // 64) * 64
        yield ring, entries, named


def start(model: str, load_format: str, options: dict[str, Any]) -> LLM:
    """vLLM, in this process."""
    return LLM(
        model=model,
        load_format=load_format,
        enforce_eager=True,
        max_model_len=256,
        max_num_seqs=4,
        kv_cache_memory_bytes=16 * 2**20,
        distributed_executor_backend="uni",
        **options,
    )


def stop(llm: LLM) -> None:
    """Frees what it has."""
    llm.llm_engine.engine_core.shutdown()
    del llm
    gc.collect()
    cleanup_dist_env_and_memory()


def digests(worker: Any) -> dict[str, int]:
    """Of all parameters that have memory."""
    model = worker.model_runner.get_model()
    return {
        name: digest(parameter.data.contiguous())
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if parameter.numel() > 0 and not parameter.is_meta
    }


def update(worker: Any, served: Served, directory: str, how: str) -> dict[str, int]:
    """One update; the reasons of opaque tensors."""
    targets = [Target(worker.model_runner.get_model(), worker.model_config, True)]
    with torch.no_grad(), set_current_vllm_config(worker.vllm_config):
        load = open_load(targets, torch.device("cpu"))
        known = served.known(targets)
        known.load = load
        try:
            tracer = known.state.watch() if how == "recorded" else None
            if how == "replayed":
                recording = known.state.recording
                assert recording is not None, known.state.refusal
                twins = known.state.begin(recording.id)
                replay = known.state.replay()
            for ring, entries, named in buckets(directory):
                if how == "replayed":
                    for entry in entries:
                        twins.saw(entry, ring)
                    left = replay.run(ring, entries)
                    load.load(iter([one for one in named if one[0] in left]))
                elif tracer is not None:
                    with tracer.watch(ring, entries, named) as given:
                        load.load(iter(given))
                else:
                    load.load(iter(named))
            if how == "replayed":
                twins.check()
            if tracer is not None:
                known.state.loaded(tracer)
            load.finish()
            if tracer is not None:
                known.state.record(tracer)
                assert known.state.recording is not None, known.state.refusal
                return dict(Counter(known.state.recording.opaque.values()))
            return {}
        except BaseException:
            load.abandon()
            raise
        finally:
            known.load = None


def main() -> None:
    """All updates of the request."""
    request = json.loads(Path(sys.argv[1]).read_text())
    expected: dict[str, dict[str, int]] = {}
    for directory in dict.fromkeys(request["updates"]):
        llm = start(directory, "auto", request["options"])
        expected[directory] = llm.collective_rpc(digests)[0]
        stop(llm)
    llm = start(request["model"], "dummy", request["options"])
    served, answers = Served(), []
    for index, directory in enumerate(request["updates"]):
        how = ("staged", "recorded", "replayed")[min(index, 2)]
        try:
            opaque = llm.collective_rpc(update, args=(served, directory, how))[0]
        except Exception as error:
            answers.append({"how": how, "error": f"{type(error).__name__}: {error}", "different": [], "opaque": {}})
            break
        found = llm.collective_rpc(digests)[0]
        wanted = expected[directory]
        different = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        answers.append({"how": how, "different": different, "opaque": opaque, "parameters": len(found)})
    Path(sys.argv[2]).write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
