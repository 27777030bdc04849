"""How fast pinned host memory reaches all GPUs at once: ``h2d.py GPUS BYTES REPEAT`` prints one JSON object."""

from __future__ import annotations

import json
import sys
import time

import torch


def main(gpus: int, size: int, repeat: int) -> None:
    """Copies ``size`` bytes to each GPU on its own link at the same time; the best of ``repeat`` rounds counts."""
    devices = [torch.device("cuda", index) for index in range(gpus)]
    sources = [torch.empty(size, dtype=torch.uint8, pin_memory=True) for _ in devices]
    for index, source in enumerate(sources):
        source.fill_(index + 1)
    targets = [torch.empty(size, dtype=torch.uint8, device=device) for device in devices]
    best, rates = 0.0, [0.0] * gpus
    for _ in range(repeat + 1):
        for device in devices:
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        ends = []
        for device, source, target in zip(devices, sources, targets, strict=True):
            with torch.cuda.device(device):
                begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                begin.record()
                target.copy_(source, non_blocking=True)
                end.record()
                ends.append((begin, end))
        for _, end in ends:
            end.synchronize()
        rate = gpus * size / (time.perf_counter() - started)
        if rate > best:
            best, rates = rate, [size / (begin.elapsed_time(end) / 1000) for begin, end in ends]
    names = [torch.cuda.get_device_name(device) for device in devices]
    nccl = ".".join(map(str, torch.cuda.nccl.version()))
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "nccl": nccl}
    print(json.dumps({"bytesPerSecond": best, "eachBytesPerSecond": rates, "names": names, "versions": versions}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
