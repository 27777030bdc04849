"""Tensors over a ring: the correct bytes, without copying if their elements are aligned."""

from __future__ import annotations

import random

import pytest
import torch

from ckpt_worker.errors import RingError
from ckpt_worker.loading.bucket import open_bucket
from ckpt_worker.loading.digest import flat_bytes
from ckpt_worker.loading.torch_dtypes import TORCH_DTYPES, from_bytes
from ckpt_worker.protocol.dtypes import DTYPE_BITS
from ckpt_worker.protocol.messages import TensorEntry

RING = torch.randint(0, 256, (1 << 16,), dtype=torch.uint8)


def _entry(draw: random.Random, room: int) -> TensorEntry:
    while True:
        dtype = draw.choice(sorted(DTYPE_BITS))
        shape = [draw.choice([0, 1, 2, 3, 4, 6, 8, 16]) for _ in range(draw.randrange(5))]
        bits = DTYPE_BITS[dtype]
        for length in shape:
            bits *= length
        if bits % 8 == 0 and bits // 8 <= room:
            break
    offset = draw.randrange(room - bits // 8 + 1)
    return TensorEntry("t", dtype, shape, offset if draw.random() < 0.3 else offset // 16 * 16, bits // 8)


@pytest.mark.parametrize("skipped", [0, 1, 4, 8])
def test_bytes_shape_and_type_are_those_of_the_slice(skipped: int) -> None:
    draw = random.Random(skipped)
    data = RING[skipped : len(RING) - 5]
    entries = [_entry(draw, data.numel()) for _ in range(400)]
    for entry, (name, tensor) in zip(entries, open_bucket(data, entries), strict=True):
        part = data[entry.offset : entry.offset + entry.size]
        expected = from_bytes(part, entry.dtype, entry.shape)
        assert (name, tensor.dtype, tensor.shape, tensor.stride()) == ("t", expected.dtype, expected.shape, expected.stride())
        assert tensor.is_contiguous()
        assert torch.equal(flat_bytes(tensor), part)
        element = TORCH_DTYPES.get(entry.dtype)
        if entry.size and (element is None or part.data_ptr() % element.itemsize == 0):
            assert tensor.data_ptr() == part.data_ptr()


def test_a_tensor_that_leaves_the_ring_is_refused() -> None:
    inside = TensorEntry("a", "F32", [4], len(RING) - 16, 16)
    assert open_bucket(RING, [inside])[0][1].shape == (4,)
    with pytest.raises(RingError, match="'b'"):
        open_bucket(RING, [inside, TensorEntry("b", "F32", [4], len(RING) - 12, 16)])
