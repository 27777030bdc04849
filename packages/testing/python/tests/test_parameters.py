from __future__ import annotations

import pytest
import torch

from ckpt_reference.layout import Slice, place
from ckpt_reference.parameters import Parameters
from ckpt_worker.errors import LayoutError
from ckpt_worker.loading.digest import flat_bytes
from models import checkpoint, expected

CPU = torch.device("cpu")


def contents(parameters: Parameters) -> dict[str, bytes]:
    return {name: flat_bytes(tensor).numpy().tobytes() for name, tensor in parameters.tensors.items()}


@pytest.mark.parametrize(("rank", "size"), [(0, 1), (0, 2), (1, 2), (0, 4), (3, 4)])
def test_fused_slices_are_those_that_numpy_makes(rank: int, size: int) -> None:
    tensors = checkpoint()
    parameters = Parameters(rank, size, CPU)
    parameters.load(tensors.items())
    assert not parameters.tensors
    parameters.finish()
    assert contents(parameters) == expected(tensors, rank, size)


def test_later_updates_write_in_place_in_any_order() -> None:
    parameters = Parameters(1, 2, CPU)
    parameters.load(checkpoint().items())
    parameters.finish()
    addresses = {name: tensor.data_ptr() for name, tensor in parameters.tensors.items()}
    tensors = checkpoint()
    for name in sorted(tensors):
        parameters.load([(name, tensors[name])])
    parameters.finish()
    assert contents(parameters) == expected(tensors, 1, 2)
    assert {name: tensor.data_ptr() for name, tensor in parameters.tensors.items()} == addresses


def test_the_ranks_together_hold_every_byte_once() -> None:
    tensors = {"l.q_proj.weight": torch.arange(96, dtype=torch.int32).view(8, 12), "l.o_proj.weight": torch.rand(6, 8)}
    parts = []
    for rank in range(4):
        parameters = Parameters(rank, 4, CPU)
        parameters.load(tensors.items())
        parameters.finish()
        parts.append(parameters.tensors)
    assert torch.equal(torch.cat([part["l.qkv_proj.weight"] for part in parts]), tensors["l.q_proj.weight"])
    assert torch.equal(torch.cat([part["l.o_proj.weight"] for part in parts], 1), tensors["l.o_proj.weight"])


@pytest.mark.parametrize(
    ("name", "shape", "parameter", "kept"),
    [
        ("m.q_proj.weight", [8, 6], "m.qkv_proj.weight", Slice(0, 4, 4)),
        ("m.q_proj.weight", [7, 6], "m.qkv_proj.weight", None),
        ("m.o_proj.weight", [8, 6], "m.o_proj.weight", Slice(1, 3, 3)),
        ("m.o_proj.bias", [8], "m.o_proj.bias", None),
        ("m.q_a_proj.weight", [8, 6], "m.fused_qkv_a_proj.weight", None),
        ("m.kv_b_proj.weight", [8, 6], "m.kv_b_proj.weight", Slice(0, 4, 4)),
        ("m.experts.3.w3.weight", [8, 6], "m.experts.w13_weight", Slice(0, 4, 4)),
        ("m.experts.3.down_proj.input_scale", [], "m.experts.w2_input_scale", None),
        ("m.shared_experts.up_proj.weight", [8, 6], "m.shared_experts.gate_up_proj.weight", Slice(0, 4, 4)),
        ("lm_head.weight", [10, 6], "lm_head.weight", Slice(0, 5, 5)),
        ("model.norm.weight", [8], "model.norm.weight", None),
        ("encoder.layer.0.attention.self.query.weight", [8, 6], "encoder.layer.0.attention.self.query.weight", None),
        ("", [2], "", None),
    ],
)
def test_places(name: str, shape: list[int], parameter: str, kept: Slice | None) -> None:
    placement = place(name, shape, 1, 2)
    assert (placement.parameter, placement.kept) == (parameter, kept)


def test_scalar_scales_of_experts_are_stacked() -> None:
    tensors = {
        f"m.experts.{expert}.{part}_proj.weight_scale": torch.tensor(float(10 * expert + index))
        for expert in range(3)
        for index, part in enumerate(("gate", "up"))
    }
    parameters = Parameters(0, 2, CPU)
    for _ in range(2):
        parameters.load(tensors.items())
        parameters.finish()
    assert parameters.tensors["m.experts.w13_weight_scale"].tolist() == [[0, 1], [10, 11], [20, 21]]


def test_bits_survive_that_a_conversion_would_change() -> None:
    odd = torch.arange(256, dtype=torch.uint8).view(torch.bool)
    signalling = torch.tensor([0x7FA00001, -1, 0x7F800001], dtype=torch.int32).view(torch.float32)
    parameters = Parameters(0, 1, CPU)
    for _ in range(2):
        parameters.load([("odd", odd), ("nan", signalling), ("empty", torch.empty(0, 3)), ("scalar", torch.tensor(2))])
        parameters.finish()
    assert contents(parameters)["odd"] == bytes(range(256))
    assert contents(parameters)["nan"] == signalling.view(torch.uint8).numpy().tobytes()


def test_poison_changes_every_byte_every_time() -> None:
    parameters = Parameters(0, 1, CPU)
    parameters.load(checkpoint().items())
    parameters.finish()
    states = [contents(parameters)]
    for _ in range(3):
        parameters.poison()
        states.append(contents(parameters))
    for before in states:
        for after in states:
            if before is not after:
                assert all(a != b for name in before for a, b in zip(before[name], after[name], strict=True))


def test_what_does_not_fit_is_named() -> None:
    parameters = Parameters(0, 1, CPU)
    parameters.load([("m.q_proj.weight", torch.zeros(4, 4)), ("n", torch.zeros(3))])
    parameters.finish()
    for name, tensor, text in (
        ("n", torch.zeros(4), "was created for"),
        ("n", torch.zeros(3, dtype=torch.float64), "was created for"),
        ("m.k_proj.weight", torch.zeros(4, 4), "already exists"),
    ):
        with pytest.raises(LayoutError, match=text) as caught:
            parameters.load([(name, tensor)])
        assert caught.value.tensor == name
    parameters.load([("x.q_proj.weight", torch.zeros(4, 4)), ("x.k_proj.weight", torch.zeros(4, 5))])
    with pytest.raises(LayoutError, match=r"does not fit into 'x\.qkv_proj\.weight'"):
        parameters.finish()
    parameters.discard()
    parameters.load([("y.experts.0.w1.weight", torch.zeros(4, 4)), ("y.experts.1.w3.weight", torch.zeros(4, 4))])
    with pytest.raises(LayoutError, match="same parts"):
        parameters.finish()
    parameters.discard()
    parameters.load([("z.experts.0.w1.weight", torch.zeros(4, 4))])
    with pytest.raises(LayoutError, match="same part of"):
        parameters.load([("z.experts.0.gate_proj.weight", torch.zeros(4, 4))])
