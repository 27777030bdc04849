"""Times checkpoint-engine's own bucket generation on given metadata.

Reads one JSON object from the file named on the command line:
``{"bucketBytes": int, "repeat": int, "ranks": [[[name, dtype, shape], ...], ...]}`` (tensors of each rank, dtypes by their
safetensors names), and prints ``{"version", "seconds", "buckets"}`` or ``{"skipped": reason}``.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from pathlib import Path
from typing import Any

TORCH_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "I16": "int16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "F32": "float32",
    "F64": "float64",
    "I64": "int64",
}


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Builds the gathered metadata as checkpoint-engine holds it, then times the bucket generation alone."""
    import torch
    from checkpoint_engine import data_types, pin_memory, ps

    gathered: dict[int, Any] = {}
    for rank, tensors in enumerate(request["ranks"]):
        metas = []
        for name, dtype, shape in tensors:
            torch_dtype = getattr(torch, TORCH_DTYPES[dtype])
            size = torch.Size(shape)
            aligned = pin_memory._align_size(torch_dtype, size)
            metas.append(data_types.ParameterMeta(name=name, dtype=torch_dtype, shape=size, aligned_size=aligned))
        buffer = data_types.MemoryBufferMetas(metas=metas, ptr=0, size=sum(meta.aligned_size for meta in metas))
        gathered[rank] = data_types.MemoryBufferMetaList(
            p2p_store_addr=None, memory_buffer_metas_list=[buffer], rdma_device=f"nic-{rank}"
        )
    topology = {f"nic-{rank}": {rank} for rank in gathered}
    seconds: list[float] = []
    buckets = 0
    for _ in range(request["repeat"]):
        start = time.perf_counter()
        generated = ps._gen_h2d_buckets(gathered, request["bucketBytes"], topology, topology)
        seconds.append(time.perf_counter() - start)
        buckets = len(generated)
    return {"version": importlib.metadata.version("checkpoint-engine"), "seconds": seconds, "buckets": buckets}


def main(arguments: list[str]) -> int:
    """Prints the result; a missing package is a reason to skip, anything else an error."""
    request = json.loads(Path(arguments[1]).read_text(encoding="utf-8"))
    try:
        result = measure(request)
    except (ImportError, AttributeError) as error:
        # AttributeError: a release that moved the functions this compares with.
        result = {"skipped": f"checkpoint-engine cannot be used: {type(error).__name__}: {error}"}
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
