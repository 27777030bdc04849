"""Sums of the digest's terms over many ranges of GPU memory at once: one launch, at the rate of the memory.

With torch's own operations each range needs some twenty launches, and its bytes pass through memory as often. If Triton, which
is included in torch's CUDA builds, cannot be used, callers use torch.
"""

from __future__ import annotations

import functools
import logging
import random
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import torch

from .digest import GOLDEN, reference_mix

_LOG = logging.getLogger(__name__)
#: Maximum words that one program sums: enough to hide its launch, few enough to keep all of a GPU busy.
_PIECE_WORDS: Final = 1 << 16
_BLOCK: Final = 1024
_MASK: Final = (1 << 64) - 1


class Words(NamedTuple):
    """``rows`` rows of ``row_words`` 64-bit words in GPU memory, with their positions in their tensor."""

    #: Address of the first row, a multiple of 8, and the distance in bytes to each next one, also a multiple of 8.
    address: int
    pitch: int
    row_words: int
    rows: int
    #: Index of the first word in its tensor, and the distance to that of each next row.
    first: int
    first_pitch: int
    #: Index of the sum of these words.
    output: int


class WordSums:
    """A list of words to sum, ready to launch: it can be reused as long as the memory stays at the same place."""

    def __init__(self, device: torch.device, words: Sequence[Words]) -> None:
        numbers = [piece for one in words for piece in _pieces(one)]
        self._device = device
        self._count = len(numbers)
        self._table = torch.tensor(numbers, dtype=torch.int64).reshape(-1, 7).to(device)

    def add_to(self, outputs: torch.Tensor) -> None:
        """Adds the sums to ``outputs``, int64 on the device, on the current stream, without waiting for it."""
        if self._count == 0:
            return
        from .word_sums_kernel import sum_pieces  # not at the top: it takes Triton

        with torch.cuda.device(self._device):
            sum_pieces[(self._count,)](self._table, outputs, BLOCK=_BLOCK)


def _pieces(words: Words) -> Iterator[tuple[int, ...]]:
    """Yields parts of at most ``_PIECE_WORDS``, whole rows if several fit."""
    address, pitch, row_words, rows, first, first_pitch, output = words
    if row_words == 0 or rows == 0:
        return
    if rows > 1 and pitch == row_words * 8 and first_pitch == row_words:
        row_words, rows = row_words * rows, 1
    height = max(1, _PIECE_WORDS // row_words)
    for row in range(0, rows, height):
        count = min(height, rows - row)
        for column in range(0, row_words, _PIECE_WORDS):
            width = min(_PIECE_WORDS, row_words - column)
            at = address + row * pitch + column * 8
            yield at, pitch, width, width * count, first + row * first_pitch + column, first_pitch, output


@functools.cache
def can_sum(device: torch.device) -> bool:
    """Returns True if :class:`WordSums` works on a device: tested once, on random words whose sums are known. The log gives the
    reason if it does not.
    """
    if device.type != "cuda":
        return False
    try:
        return _try(device)
    except Exception as error:  # a missing compiler, an unknown GPU: Triton fails in many ways
        _LOG.warning("weights are verified with torch's own operations, which are slower: Triton cannot be used: %r", error)
        return False


def _try(device: torch.device) -> bool:
    rng = random.Random(1)
    values = [rng.getrandbits(64) for _ in range(3000)]
    signed = [value - (1 << 64) if value >> 63 else value for value in values]
    data = torch.tensor(signed, dtype=torch.int64, device=device)
    # A row across pieces' own blocks, and rows with gaps on both sides.
    tried = (Words(data.data_ptr(), 0, 2500, 1, 7, 0, 0), Words(data.data_ptr() + 8, 240, 17, 90, 3, 41, 1))
    found = torch.zeros(2, dtype=torch.int64, device=device)
    WordSums(device, tried).add_to(found)
    wanted = [0, 0]
    for words in tried:
        for row in range(words.rows):
            for column in range(words.row_words):
                at = (words.address - data.data_ptr() + row * words.pitch) // 8 + column
                index = words.first + row * words.first_pitch + column + 1
                wanted[words.output] += reference_mix((values[at] + index * GOLDEN) & _MASK)
    if [value & _MASK for value in found.tolist()] == [value & _MASK for value in wanted]:
        return True
    _LOG.warning("weights are verified with torch's own operations, which are slower: Triton's sums are wrong on %s", device)
    return False
