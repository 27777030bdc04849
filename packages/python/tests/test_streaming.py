from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from ckpt_worker.loading.streaming import Named, StreamingLoad

CPU = torch.device("cpu")


class Pairs(torch.nn.Module):
    """Copies a and b of a name into one parameter, and expects both within one call, as some models do."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.joined: dict[str, torch.Tensor] = {}

    def load_weights(self, weights: Iterator[Named]) -> None:
        self.calls += 1
        kept: dict[str, torch.Tensor] = {}
        for name, tensor in weights:
            if tensor.numel() == 0:
                raise ValueError(f"{name} is empty")
            other = kept.pop(name[:-1] + ("b" if name[-1] == "a" else "a"), None)
            if other is None:
                kept[name] = tensor
            else:
                self.joined[name[:-1]] = torch.cat([other, tensor])


def test_what_buckets_separate_comes_together_although_the_ring_was_overwritten() -> None:
    model = Pairs()
    load = StreamingLoad(model.load_weights, CPU)
    ring = torch.zeros(4)
    for number, bucket in enumerate([["x.a", "y.a"], ["y.b"], ["x.b"]]):
        ring.fill_(number + 1)
        load.load((name, ring[:2]) for name in bucket)
        ring.fill_(-1)
    load.finish()
    assert model.calls == 1
    assert {name: joined.tolist() for name, joined in model.joined.items()} == {"x.": [1, 1, 3, 3], "y.": [1, 1, 2, 2]}


def test_what_the_loader_raises_is_raised_at_its_bucket() -> None:
    before = threading.active_count()
    load = StreamingLoad(Pairs().load_weights, CPU)
    load.load([("x.a", torch.ones(1))])
    with pytest.raises(ValueError, match=r"x\.b is empty"):
        load.load([("x.b", torch.ones(0)), ("y.a", torch.ones(1))])
    load.abandon()
    assert threading.active_count() == before


def test_a_loader_that_needs_a_look_at_the_end_raises_there() -> None:
    def load_weights(weights: Iterator[Named]) -> None:
        if len(list(weights)) < 3:
            raise ValueError("too few")

    load = StreamingLoad(load_weights, CPU)
    load.load([("x", torch.ones(1))])
    with pytest.raises(ValueError, match="too few"):
        load.finish()


@pytest.mark.parametrize("begun", [True, False])
def test_abandoning_ends_the_loader_where_it_is(begun: bool) -> None:
    before = threading.active_count()
    model = Pairs()
    load = StreamingLoad(model.load_weights, CPU)
    if begun:
        load.load([("x.a", torch.ones(1))])
    load.abandon()
    assert threading.active_count() == before
    assert model.joined == {}
