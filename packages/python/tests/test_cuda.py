"""Needs a GPU: a ring allocated by another process, mapped by handle, through complete updates."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from ckpt_worker.errors import RingError
from ckpt_worker.loading.cuda_driver import device_uuid
from ckpt_worker.loading.digest import digest, reference_digest
from ckpt_worker.loading.ring import open_ring
from ckpt_worker.protocol.messages import CudaRing
from ckpt_worker.update.session import run_update
from rank import TOKEN, Rank, in_thread

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU, or a CPU build of torch")]

# cudaMalloc, byte i of the memory is i % 251, print the handle, keep it until standard input ends.
OWNER = """
import ctypes, sys, torch
size = int(sys.argv[1])
torch.empty(1, device="cuda:0")
driver = ctypes.CDLL("libcuda.so.1")
address, handle = ctypes.c_uint64(), (ctypes.c_byte * 64)()
assert driver.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size)) == 0
data = (torch.arange(size) % 251).to(torch.uint8)
assert driver.cuMemcpyHtoD_v2(address, ctypes.c_void_p(data.data_ptr()), ctypes.c_size_t(size)) == 0
assert driver.cuIpcGetMemHandle(ctypes.byref(handle), address) == 0
print(bytes(handle).hex(), flush=True)
sys.stdin.read()
"""
SIZE = 4 << 20


def test_an_update_through_gpu_memory() -> None:
    device = torch.device("cuda:0")
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(SIZE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None
        handle = bytes.fromhex(owner.stdout.readline())
        uuid = device_uuid(device)
        expected = bytes(index % 251 for index in range(SIZE))
        ring = open_ring(CudaRing(handle, 0, uuid, SIZE), device)
        assert digest(ring.data) == reference_digest(expected[:SIZE])
        ring.close()
        ring.close()
        with pytest.raises(RingError, match="announced"):
            open_ring(CudaRing(handle, 0, uuid, 1 << 40), device)
        with pytest.raises(RingError, match="GPU-other"):
            open_ring(CudaRing(handle, 0, "GPU-other", SIZE), device)

        loaded: dict[str, torch.Tensor] = {}
        with Rank() as rank:
            running = in_thread(
                lambda: run_update(
                    rank.address, TOKEN, lambda some: loaded.update((name, t.clone()) for name, t in some), None, device, 20
                )
            )
            wire = {"kind": "cuda", "handle": handle, "offset": 0, "bytes": SIZE, "deviceUuid": uuid}
            count, size = 8, SIZE // 8
            rank.receive()
            assert rank.call("attach", token=TOKEN, ring=wire, tensors=count, bytes=SIZE)["type"] == "ok"
            sent = []
            for index in range(count):
                part = reference_digest(expected[index * size : (index + 1) * size]).to_bytes(8, "little")
                sent.append(rank.send("bucket", bucket=index, tensors=[[f"t{index}", "U8", [size], index * size, size, part]]))
            answers = [rank.receive() for _ in sent]
            assert [(answer["type"], answer["seq"]) for answer in answers] == [("ok", seq) for seq in sent]
            assert rank.call("release")["type"] == "ok"
            assert rank.call("commit", version="v")["type"] == "ok"
            assert running.result(20).version == "v"
        assert torch.cat([loaded[f"t{index}"] for index in range(count)]).cpu().tolist() == list(expected)
    finally:
        owner.communicate("")
