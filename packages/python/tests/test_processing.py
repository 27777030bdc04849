"""Layers whose processing keeps their memory are loaded in place; all others are told apart, without data and with."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ckpt_worker.engines.vllm.forms import CheckpointForms
from ckpt_worker.engines.vllm.layerwise import LayerwiseLoad, ReloadTools
from ckpt_worker.engines.vllm.live import live_layers
from ckpt_worker.engines.vllm.processing import altered
from ckpt_worker.engines.vllm.target import Target
from ckpt_worker.errors import LayoutError, StateError
from ckpt_worker.loading.digest import flat_bytes

Process = Callable[[Any], object]
ELSEWHERE = torch.zeros(4)


class ScaleParameter(torch.nn.Parameter):
    """A parameter with what its loader needs, as vLLM's have."""


class Method:
    """A method of quantisation."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        self.process(layer)


class Layer(torch.nn.Module):
    """A layer in the form of a checkpoint."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(4, 4), requires_grad=False)
        self.scale = ScaleParameter(torch.zeros(4), requires_grad=False)
        self.scale.weight_loader = lambda parameter, value: parameter.data.copy_(value)  # type: ignore[attr-defined]
        self.register_buffer("step", torch.zeros(1))
        self.quant_method = Method(process)


def noted(layer: torch.nn.Module) -> SimpleNamespace:
    """What vLLM notes of a layer before the first load."""

    def on_meta(tensor: torch.Tensor) -> torch.Tensor:
        found = tensor.data.to("meta")
        found.__class__, found.__dict__ = tensor.__class__, tensor.__dict__.copy()
        return found

    parameters = {name: on_meta(tensor) for name, tensor in layer.named_parameters(recurse=False)}
    buffers = {name: on_meta(tensor) for name, tensor in layer.named_buffers(recurse=False)}
    return SimpleNamespace(restore_metadata=(parameters, buffers))


def replace(layer: torch.nn.Module, name: str, value: torch.Tensor) -> None:
    setattr(layer, name, torch.nn.Parameter(value, requires_grad=False))


def wrap(layer: torch.nn.Module) -> None:
    for name in ("weight", "scale"):
        replace(layer, name, getattr(layer, name).data)
    layer.quant_method.config = layer.scale  # type: ignore[union-attr]


def workspace(layer: torch.nn.Module) -> None:
    wrap(layer)
    layer.workspace = torch.zeros(8, device=layer.weight.device)  # type: ignore[arg-type]
    layer.workspace.fill_(3)


def pad(layer: torch.nn.Module) -> None:
    replace(layer, "weight", torch.nn.functional.pad(layer.weight, (0, 4))[..., :-4])  # type: ignore[arg-type]


KEPT: dict[str, Process] = {
    "nothing": lambda layer: None,
    "wraps": wrap,
    "makes a workspace": workspace,
    "views it back and forth": lambda layer: replace(layer, "weight", layer.weight.t().t()),
    "an empty result": lambda layer: setattr(layer, "empty", layer.weight.new_empty(0)),
}
ALTERED: dict[str, Process] = {
    "scales in place": lambda layer: layer.weight.data.mul_(2),
    "writes a view": lambda layer: layer.weight.data[1:].zero_(),
    "writes through another type": lambda layer: layer.weight.data.view(torch.int32).bitwise_or_(1),
    "copies itself shifted": lambda layer: layer.weight.data.copy_(layer.weight.data.roll(1)),
    "transposes": lambda layer: replace(layer, "weight", layer.weight.t()),
    "transposes by copying": lambda layer: replace(layer, "weight", layer.weight.t().contiguous()),
    "copies": lambda layer: replace(layer, "weight", layer.weight.clone()),
    "pads": pad,
    "sets other data": lambda layer: setattr(layer.weight, "data", layer.weight.data.flip(0)),
    "derives": lambda layer: setattr(layer, "largest", layer.scale.max()),
    "derives by way of a buffer": lambda layer: layer.step.copy_(layer.scale[:1]),
    "writes elsewhere": lambda layer: ELSEWHERE.add_(1),
    "reads a value": lambda layer: setattr(layer, "value", float(layer.scale[0])),
    "reads an address": lambda layer: setattr(layer, "address", layer.weight.data_ptr()),
    "reads by numpy": lambda layer: setattr(layer, "array", layer.weight.numpy()),
    "swaps two": lambda layer: replace(layer, "scale", layer.weight[0]),
    "adds a parameter": lambda layer: replace(layer, "more", torch.zeros(2)),
    "drops a parameter": lambda layer: delattr(layer, "scale"),
    "needs data": lambda layer: layer.weight.nonzero(),
    "fails": lambda layer: layer.absent.process(),
}


def state_of(layer: torch.nn.Module) -> dict[str, Any]:
    return {**vars(layer), **layer._parameters, **layer._buffers, **vars(layer.quant_method)}


@pytest.mark.parametrize("name", KEPT)
def test_processing_that_keeps_the_memory_is_recognised(name: str) -> None:
    layer = Layer(KEPT[name])
    before = state_of(layer)
    assert altered(layer, noted(layer).restore_metadata) is None
    after = state_of(layer)
    assert after.keys() == before.keys()
    assert all(after[key] is value for key, value in before.items())


@pytest.mark.parametrize("name", ALTERED)
def test_processing_that_does_more_is_recognised_and_changes_nothing(name: str) -> None:
    layer = Layer(ALTERED[name])
    with torch.no_grad():
        for tensor in (layer.weight, layer.scale, layer.step):
            tensor.copy_(torch.randn_like(tensor))  # type: ignore[operator,arg-type]
    elsewhere, before = ELSEWHERE.clone(), {name: (tensor, tensor.clone()) for name, tensor in layer.state_dict().items()}
    assert altered(layer, noted(layer).restore_metadata)
    assert torch.equal(ELSEWHERE, elsewhere)
    assert all(torch.equal(tensor, value) for tensor, value in before.values())
    assert layer.state_dict().keys() == before.keys()


@pytest.mark.parametrize("seed", range(60))
def test_of_random_processing_only_what_keeps_every_byte_is_taken(seed: int) -> None:
    choose = random.Random(seed)
    steps = [choose.choice([*KEPT.values(), *KEPT.values(), *ALTERED.values()]) for _ in range(choose.randint(1, 4))]

    def process(layer: Any) -> None:
        for step in steps:
            step(layer)

    layer = Layer(process)
    taken = altered(layer, noted(layer).restore_metadata) is None
    assert taken == all(step in KEPT.values() for step in steps) or _undone(steps)
    if taken:
        with torch.no_grad():
            layer.weight.copy_(torch.randn(4, 4))
        before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in layer.state_dict().items()}
        process(layer)
        for name, tensor in layer.state_dict().items():
            assert (tensor.data_ptr(), tensor.stride()) == (before[name][0], before[name][1].stride())
            assert torch.equal(flat_bytes(tensor), flat_bytes(before[name][1]))


def _undone(steps: list[Process]) -> bool:
    """Two transpositions are none."""
    rest = [step for step in steps if step not in KEPT.values()]
    return len(rest) % 2 == 0 and all(step is ALTERED["transposes"] for step in rest)


def test_layers_are_presented_with_what_their_loaders_need_and_get_their_parameters_back() -> None:
    layer = Layer(wrap)
    info = noted(layer)
    layer.quant_method.process_weights_after_loading(layer)
    serving = dict(layer._parameters)
    assert not isinstance(layer.scale, ScaleParameter)
    assert live_layers(layer, lambda _: info, lambda _: False) == [layer]
    forms = CheckpointForms(lambda _: info)
    forms.present([layer])
    assert isinstance(layer.scale, ScaleParameter)
    layer.scale.weight_loader(layer.scale, torch.arange(4.0))
    forms.process()
    assert all(layer._parameters[name] is parameter for name, parameter in serving.items())
    assert layer.scale.tolist() == [0, 1, 2, 3]
    config = layer.quant_method.config
    assert config.data_ptr() == layer.scale.data_ptr(), "a kernel refers to the memory that serves"


WITH_DATA: dict[str, Process] = {
    "changes 'weight'": lambda layer: None if layer.weight.is_meta else layer.weight.data.mul_(2),
    "replaces 'weight'": lambda layer: None if layer.weight.is_meta else replace(layer, "weight", layer.weight.clone()),
}


@pytest.mark.parametrize("what", WITH_DATA)
def test_what_processing_does_with_data_alone_is_an_error_and_never_tried_again(what: str) -> None:
    layer = Layer(WITH_DATA[what])
    info = noted(layer)
    serving = dict(layer._parameters)
    with torch.no_grad():
        layer.weight.fill_(3)
    assert live_layers(layer, lambda _: info, lambda _: False) == [layer]
    forms = CheckpointForms(lambda _: info)
    forms.present([layer])
    with pytest.raises(StateError, match=what):
        forms.process()
    assert all(layer._parameters[name] is parameter for name, parameter in serving.items())
    assert live_layers(layer, lambda _: info, lambda _: False) == []
    other = copy.deepcopy(layer)
    assert live_layers(other, lambda _: info, lambda _: False) == [other], "it is this layer that is not trusted"


class Model(torch.nn.Module):
    """Two layers, loaded by name."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = Layer(wrap), Layer(wrap)

    def load_weights(self, weights: Any) -> set[str]:
        for name, tensor in weights:
            dict(self.named_parameters())[name].data.copy_(tensor)
        return set()


@pytest.mark.parametrize(
    ("names", "missing"), [("one.weight", "one.scale"), ("two.scale", "two.weight"), ("one.weight one.scale", "")]
)
def test_a_quantised_layer_that_came_in_part_is_an_error(names: str, missing: str) -> None:
    model = Model()
    infos = {layer: noted(layer) for layer in model.modules()}
    nothing = ReloadTools(lambda _: None, lambda *_: None, lambda layer: Idle(infos[layer]))
    serving = dict(model.named_parameters())
    load = LayerwiseLoad([Target(model, SimpleNamespace(quantization="fp8"), True)], nothing)
    for name in names.split():
        load.load(iter([(name, torch.ones(dict(model.named_parameters())[name].shape))]))
    if not missing:
        load.finish()
        return
    with pytest.raises(LayoutError, match=missing):
        load.finish()
    load.abandon()
    assert all(parameter is serving[name] for name, parameter in model.named_parameters())


class Idle:
    """The part of ``LayerReloadingInfo`` that is read of layers loaded in place."""

    load_numel = 0
    loaded_weights: tuple[()] = ()

    def __init__(self, found: SimpleNamespace) -> None:
        self.restore_metadata = found.restore_metadata

    def can_load(self) -> bool:
        return False
