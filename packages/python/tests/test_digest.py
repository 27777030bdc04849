from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckpt_worker.loading.digest import digest, reference_digest


def at_offset(data: bytes, offset: int) -> torch.Tensor:
    """The bytes as a tensor that starts ``offset`` bytes into its storage."""
    return torch.frombuffer(bytearray(offset) + data + b"\xff", dtype=torch.uint8)[offset : offset + len(data)]


@given(st.binary(max_size=600), st.integers(0, 9), st.integers(1, 40))
def test_agrees_with_the_formula_at_any_size_alignment_and_chunk(data: bytes, offset: int, chunk: int) -> None:
    assert digest(at_offset(data, offset), chunk) == reference_digest(data)


def test_of_the_empty_range_is_the_mixed_length_constant() -> None:
    # mix(0xff51afd7ed558ccd), computed independently of this package.
    assert digest(torch.empty(0)) == reference_digest(b"") == 0xC293683989C114BC


@given(st.binary(min_size=1, max_size=200), st.data())
def test_every_flipped_bit_shows(data: bytes, draw: st.DataObject) -> None:
    bit = draw.draw(st.integers(0, len(data) * 8 - 1))
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    assert digest(at_offset(bytes(changed), 0)) != digest(at_offset(data, 0))


def test_trailing_zeros_and_swapped_words_show() -> None:
    assert reference_digest(b"a") != reference_digest(b"a\0")
    words = torch.arange(64, dtype=torch.int64)
    assert digest(words) != digest(words.flip(0))


def test_any_element_type_counts_as_its_bytes() -> None:
    data = bytes(range(256))
    for dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.uint64, torch.bool):
        assert digest(at_offset(data, 0).clone().view(dtype)) == reference_digest(data)
    assert digest(torch.tensor(1.0)) == reference_digest(b"\0\0\x80\x3f")


def test_over_several_default_chunks() -> None:
    tensor = torch.randint(0, 256, (5 * (1 << 20) + 3,), dtype=torch.uint8)
    assert digest(tensor) == digest(tensor, 1 << 10)


def test_refuses_what_is_no_single_range() -> None:
    with pytest.raises(ValueError, match="not contiguous"):
        digest(torch.zeros(4, 4).t())
