"""Sums by one launch: pieces by a model of the kernel, and the kernel itself if there is a GPU."""

from __future__ import annotations

import random

import pytest
import torch

from ckpt_worker.loading import bucket
from ckpt_worker.loading.digest import digest_tensor
from ckpt_worker.loading.word_sums import Words, _pieces, can_sum
from ckpt_worker.protocol.messages import TensorEntry
from ckpt_worker.recording.recording import Route
from ckpt_worker.recording.sums import RouteSums
from test_sums import random_region, recording_of, reference

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU, or a CPU build of torch")


def random_words(rng: random.Random, output: int) -> Words:
    row_words = rng.choice([1, 3, 100, 5000, 70_000])
    rows = rng.choice([1, 2, 7, 900]) if row_words <= 100 else rng.choice([1, 2])
    pitch = 8 * (row_words + rng.choice([0, 1, 5]))
    return Words(8 * rng.randint(0, 50), pitch, row_words, rows, rng.randint(0, 9), row_words + rng.choice([0, 2]), output)


def words_at(words: Words) -> list[tuple[int, int]]:
    """(address, index in the tensor) of each word."""
    return [
        (words.address + row * words.pitch + column * 8, words.first + row * words.first_pitch + column)
        for row in range(words.rows)
        for column in range(words.row_words)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_pieces_hold_each_word_once_and_none_is_too_large(seed: int) -> None:
    words = random_words(random.Random(seed), seed)
    found: list[tuple[int, int]] = []
    for address, pitch, row_words, count, first, first_pitch, output in _pieces(words):
        assert output == seed
        assert 0 < count <= 1 << 16
        # As in the kernel.
        found += [
            (address + at // row_words * pitch + at % row_words * 8, first + at // row_words * first_pitch + at % row_words)
            for at in range(count)
        ]
    assert sorted(found) == sorted(words_at(words))


@pytest.mark.gpu
@needs_gpu
def test_sums_of_routes_on_a_gpu_are_the_formula() -> None:
    device = torch.device("cuda", 0)
    assert can_sum(device)
    for seed in range(60):
        rng = random.Random(seed)
        routes, parts, end = [], [], 8 * rng.randint(0, 2)
        for _ in range(rng.randint(1, 6)):
            region, span = random_region(rng)
            place = end + rng.choice([0, 0, 0, 1])
            routes.append((0, 0, region._replace(destination=place)))
            end = (place + span + 15) // 8 * 8
        data = torch.randint(0, 256, (end,), dtype=torch.uint8)
        on_gpu = data.to(device)
        recording = recording_of([on_gpu], [Route(*route) for route in routes])
        parts = [reference(data.numpy().tobytes(), region) for _, _, region in routes]
        assert RouteSums(recording, {"p": on_gpu}).compute().tolist() == parts


@pytest.mark.gpu
@needs_gpu
def test_digests_of_a_ring_on_a_gpu_are_those_of_the_cpu() -> None:
    device = torch.device("cuda", 0)
    for seed in range(20):
        rng = random.Random(seed)
        sizes = [rng.choice([1, 7, 8, 96, 4096, 1 << 20, (1 << 20) + 3]) for _ in range(rng.randint(1, 40))]
        entries, end = [], 0
        for index, size in enumerate(sizes):
            offset = end + rng.choice([0, 0, 3])
            entries.append(TensorEntry(name=f"t{index}", dtype="U8", shape=[size], offset=offset, size=size, digest=bytes(8)))
            end = (offset + size + 15) // 16 * 16
        data = torch.randint(0, 256, (end,), dtype=torch.uint8)
        wanted = [int(digest_tensor(data[one.offset : one.offset + one.size]).item()) for one in entries]
        assert bucket._digests(data.to(device), entries) == wanted


def test_nothing_but_a_gpu_is_asked_for_a_kernel() -> None:
    assert not can_sum(torch.device("cpu"))
