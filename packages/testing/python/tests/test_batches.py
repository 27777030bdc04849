from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch

from ckpt_reference.parameters import Parameters
from ckpt_worker.loading.digest import flat_bytes

CPU = torch.device("cpu")


def moe(layers: int, experts: int, hidden: int, inner: int) -> Iterator[tuple[str, torch.dtype, list[int]]]:
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        for part, rows in (("q", hidden * 2), ("k", hidden // 2), ("v", hidden // 2)):
            yield f"{prefix}.self_attn.{part}_proj.weight", torch.bfloat16, [rows, hidden]
        yield f"{prefix}.self_attn.o_proj.weight", torch.bfloat16, [hidden, hidden * 2]
        yield f"{prefix}.input_layernorm.weight", torch.bfloat16, [hidden]
        yield f"{prefix}.mlp.gate.weight", torch.bfloat16, [experts, hidden]
        for expert in range(experts):
            yield f"{prefix}.mlp.experts.{expert}.gate_proj.weight", torch.bfloat16, [inner, hidden]
            yield f"{prefix}.mlp.experts.{expert}.up_proj.weight", torch.bfloat16, [inner, hidden]
            yield f"{prefix}.mlp.experts.{expert}.down_proj.weight", torch.bfloat16, [hidden, inner]
            yield f"{prefix}.mlp.experts.{expert}.down_proj.scale", torch.float32, []


def ring_of(model: list[tuple[str, torch.dtype, list[int]]], gap: int = 0) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The tensors one after another in one storage of random bytes."""
    sizes = [torch.Size(shape).numel() * dtype.itemsize for _, dtype, shape in model]
    ring = torch.randint(0, 256, (sum(sizes) + gap * len(sizes) + 64,), dtype=torch.uint8)
    named, at = {}, gap
    for (name, dtype, shape), size in zip(model, sizes, strict=True):
        named[name] = ring[at : at + size].view(dtype).view(shape)
        at += size + gap
    return ring, named


@pytest.mark.parametrize("gap", [0, 4, 8, 256])
@pytest.mark.parametrize("rank", [0, 1])
def test_batches_from_one_storage_are_what_single_tensors_give(rank: int, gap: int) -> None:
    model = list(moe(2, 6, 16, 8))
    _, first = ring_of(model)
    batched, single = Parameters(rank, 2, CPU), Parameters(rank, 2, CPU)
    for parameters in (batched, single):
        parameters.load(first.items())
        parameters.finish()
    for _ in range(3):
        _, named = ring_of(model, gap)
        names = list(named)
        for start in range(0, len(names), 11):
            batched.load([(name, named[name]) for name in names[start : start + 11]])
        for name, tensor in named.items():
            single.load([(name, tensor.clone())])
        for name, tensor in single.tensors.items():
            assert torch.equal(flat_bytes(batched.tensors[name]), flat_bytes(tensor)), name


def test_experts_of_a_layer_become_one_copy_a_projection() -> None:
    _, named = ring_of([entry for entry in moe(1, 32, 16, 8) if ".experts." in entry[0]])
    parameters = Parameters(0, 2, CPU)
    parameters.load(named.items())
    parameters.finish()
    parameters.load(named.items())
    [(_, plan)] = parameters._plans.values()
    assert len(plan) == 4


def test_a_batch_of_another_layout_is_prepared_anew() -> None:
    model = [("a", torch.int16, [4]), ("b", torch.int16, [4])]
    parameters = Parameters(0, 1, CPU)
    parameters.load(ring_of(model)[1].items())
    parameters.finish()
    for order in (model, model[::-1]):
        _, named = ring_of(order, 2)
        parameters.load([(name, named[name]) for name in ("a", "b")])
        assert all(torch.equal(parameters.tensors[name], named[name]) for name in named)


def test_the_time_for_a_tensor_stays_small() -> None:
    model = list(moe(4, 128, 8, 8))
    _, named = ring_of(model)
    parameters = Parameters(0, 2, CPU)
    batch = list(named.items())
    parameters.load(batch)
    parameters.finish()
    parameters.load(batch)
    best = min(_seconds(lambda: parameters.load(batch)) for _ in range(5))
    # About 2 µs on an idle core: this excludes one copy per tensor (20 µs and more).
    assert best / len(batch) < 15e-6


def _seconds(work: object) -> float:
    started = time.process_time()
    work()  # type: ignore[operator]
    return time.process_time() - started
