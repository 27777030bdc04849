"""Sums of the digest's terms over many ranges of GPU memory at once: one launch, at the rate of the memory.

By torch's own operations each range takes some twenty launches, and its bytes pass through memory as often. Where Triton, which
comes with torch's CUDA builds, cannot be used, callers do it by torch.
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
#: Words that one program sums, at most: enough to hide its launch, few enough to keep all of a GPU busy.
_PIECE_WORDS: Final = 1 << 16
_BLOCK: Final = 1024
_MASK: Final = (1 << 64) - 1


class Words(NamedTuple):
    """``rows`` rows of ``row_words`` 64-bit words in GPU memory, and where they are in their tensor."""

    #: Where the first row begins, a multiple of 8, and how many bytes further each next one does, one too.
    address: int
    pitch: int
    row_words: int
    rows: int
    #: Index of the first word in its tensor, and how much further each next row's is.
    first: int
    first_pitch: int
    #: Which sum the words belong to.
    output: int


class WordSums:
    """A list of words to sum, ready to launch: it can be used again for as long as the memory stays where it is."""

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
    """Parts of at most ``_PIECE_WORDS``, whole rows where several fit."""
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
    """Returns True if :class:`WordSums` work on a device: tried once, on random words whose sums are known. The log says why
    not.
    """
    if device.type != "cuda":
        return False
    try:
        return _try(device)
    except Exception as error:  # a missing compiler, an unknown GPU: Triton fails in many ways
        _LOG.warning("weights are verified by torch's own operations, which is slower: Triton cannot be used: %r", error)
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
    _LOG.warning("weights are verified by torch's own operations, which is slower: Triton's sums are wrong on %s", device)
    return False
