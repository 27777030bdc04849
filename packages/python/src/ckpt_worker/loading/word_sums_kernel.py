"""The kernel of :mod:`ckpt_worker.loading.word_sums`, in Triton; importing it requires Triton."""

from __future__ import annotations

import triton
import triton.language as tl

#: Numbers that describe a piece: address, pitch in bytes, words per row, words, index of the first word in its tensor, distance
#: to that of each next row, output.
COLUMNS = 7


@triton.jit  # type: ignore[untyped-decorator]
def sum_pieces(table, outputs, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def] # noqa: N803
    """Adds the sum of the digest's terms of one piece per program to its output. All arithmetic is modulo 2**64."""
    entry = table + tl.program_id(0) * 7
    address = tl.load(entry)
    pitch = tl.load(entry + 1)
    row_words = tl.load(entry + 2).to(tl.int32)
    words = tl.load(entry + 3).to(tl.int32)
    first = tl.load(entry + 4)
    first_pitch = tl.load(entry + 5)
    output = tl.load(entry + 6)
    total = tl.zeros([BLOCK], dtype=tl.uint64)
    for start in range(0, words, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < words
        row = at // row_words
        column = (at - row * row_words).to(tl.int64)
        row = row.to(tl.int64)
        place = (address + row * pitch + column * 8).to(tl.pointer_type(tl.int64))
        word = tl.load(place, mask=inside, other=0).to(tl.uint64, bitcast=True)
        index = (first + row * first_pitch + column + 1).to(tl.uint64, bitcast=True)
        x = word + index * 0x9E3779B97F4A7C15
        x = x ^ (x >> 32)
        x = x * 0xD6E8FEB86659FD93
        x = x ^ (x >> 32)
        x = x * 0xD6E8FEB86659FD93
        x = x ^ (x >> 32)
        total += tl.where(inside, x, 0)
    tl.atomic_add(outputs + output, tl.sum(total.to(tl.int64, bitcast=True)))
