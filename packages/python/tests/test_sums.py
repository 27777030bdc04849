"""A worker's sums over its parameters, compared with the protocol's formula one unit at a time."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch

from ckpt_worker.loading.digest import GOLDEN, reference_digest, reference_mix
from ckpt_worker.recording import sums as module
from ckpt_worker.recording.recording import Recording, Route
from ckpt_worker.recording.regions import Dim, Region
from ckpt_worker.recording.sums import RouteSums, unit_of

_MASK = (1 << 64) - 1


def reference(parameter: bytes, region: Region) -> int:
    """docs/worker-protocol.md, "Sums of routes"."""
    unit, total = unit_of(region), 0
    for source, destination in _rows(region.dims):
        for at in range(0, region.row, unit):
            place, kept = region.source + source + at, region.destination + destination + at
            value = int.from_bytes(parameter[kept : kept + unit], "little") << 8 * (place % 8)
            total += reference_mix((value + (place // 8 + 1) * GOLDEN) & _MASK)
    return total & _MASK


def _rows(dims: tuple[Dim, ...]) -> Iterator[tuple[int, int]]:
    if not dims:
        yield 0, 0
        return
    for i in range(dims[0].length):
        for source, destination in _rows(dims[1:]):
            yield i * dims[0].source + source, i * dims[0].destination + destination


def recording_of(storages: list[torch.Tensor], routes: list[Route]) -> Recording:
    return Recording(
        tensors=[("t", "U8", [1])],
        storages=[tensor.untyped_storage().nbytes() for tensor in storages],
        addresses=[tensor.data_ptr() for tensor in storages],
        parameters=[],
        routes=routes,
        opaque={},
        handles="",
        places={},
    )


def random_region(rng: random.Random) -> tuple[Region, int]:
    """A region, and the bytes of storage that it needs from its destination on."""
    size = rng.choice([1, 2, 4, 8, 8, 8])
    row = size * rng.randint(1, 40)
    dims: list[Dim] = []
    source_span, destination_span = row, row
    for _ in range(rng.randint(0, 3)):
        length = rng.randint(1, 5)
        source = rng.choice([source_span, source_span + size * rng.randint(0, 4), size])
        destination = destination_span + rng.choice([0, size, 1])
        dims.insert(0, Dim(length, source, destination))
        source_span += (length - 1) * source
        destination_span += (length - 1) * destination
    return Region(size * rng.randint(0, 9), 0, row, tuple(dims)), destination_span


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("limit", [7, 64, 1 << 18])
def test_sums_are_the_formula_whatever_the_form_and_the_pieces(seed: int, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(module, "chunk_words", lambda device: limit)
    storages, routes = [], []
    for index in range(2):
        end = rng.choice([0, 1, 8])
        for _ in range(rng.randint(1, 4)):
            region, span = random_region(rng)
            # Routes of one form, evenly spaced like experts, and some that are not.
            for _ in range(rng.choice([1, 1, 5])):
                routes.append(Route(0, index, region._replace(destination=end)))
                end += span + rng.choice([0, 0, 3])
        storages.append(torch.randint(0, 256, (end + 8,), dtype=torch.uint8))
    rng.shuffle(routes)
    found = RouteSums(recording_of(storages, routes), {str(i): tensor for i, tensor in enumerate(storages)}).compute().tolist()
    kept = [bytes(tensor.tolist()) for tensor in storages]
    assert found == [reference(kept[storage], region) for _, storage, region in routes]


def test_parts_of_a_tensor_add_up_to_its_digest() -> None:
    rows, pitch = 6, 48
    data = torch.randint(0, 256, (rows * pitch,), dtype=torch.uint8)
    left, right = (data.view(rows, pitch)[:, half * 24 : half * 24 + 24].contiguous() for half in (0, 1))
    routes = [Route(0, half, Region(half * 24, 0, 24, (Dim(rows, pitch, 24),))) for half in (0, 1)]
    sums = RouteSums(recording_of([left, right], routes), {"left": left, "right": right}).compute().tolist()
    length = reference_mix((rows * pitch) ^ 0xFF51AFD7ED558CCD)
    assert (length + sum(sums)) & _MASK == reference_digest(bytes(data.tolist()))


def test_nothing_recorded_sums_to_nothing() -> None:
    assert RouteSums(recording_of([], []), {}).compute().tolist() == []
