"""Tests that do not need vLLM; the others run inside the real one (apps/harness/src/vllm)."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace

import pytest
import torch

from ckpt_worker import UnsupportedError
from ckpt_worker.engines.vllm import WorkerExtension
from ckpt_worker.engines.vllm.in_place import InPlaceLoad
from ckpt_worker.engines.vllm.layerwise import LayerwiseLoad, ReloadTools
from ckpt_worker.engines.vllm.target import Target
from ckpt_worker.engines.vllm.update import worker_index
from ckpt_worker.errors import LayoutError

Named = tuple[str, torch.Tensor]
CPU = torch.device("cpu")


class Model(torch.nn.Module):
    """Loads by name and returns what it loaded, as vLLM's models do."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False)
        self.requires_grad_(False)

    def load_weights(self, weights: Iterable[Named]) -> set[str]:
        parameters = dict(self.named_parameters())
        loaded = set()
        for name, tensor in weights:
            loader = getattr(parameters[name], "weight_loader", lambda parameter, value: parameter.data.copy_(value))
            loader(parameters[name], tensor)
            loaded.add(name)
        return loaded


def plain(**fields: object) -> SimpleNamespace:
    return SimpleNamespace(quantization=None, **fields)


def test_only_its_own_methods_are_added_to_a_worker() -> None:
    public = [name for name in dir(WorkerExtension) if not name.startswith("__")]
    assert public == ["ckpt_prepare", "ckpt_status", "ckpt_update"]


@pytest.mark.parametrize(("replica", "rank", "index"), [(0, 1, 1), (2, 1, 9)])
def test_workers_are_counted_over_replicas(replica: int, rank: int, index: int) -> None:
    parallel = SimpleNamespace(world_size=4, data_parallel_index=replica)
    assert worker_index(SimpleNamespace(parallel_config=parallel), rank) == index
    older = SimpleNamespace(world_size=4, data_parallel_rank=replica)
    assert worker_index(SimpleNamespace(parallel_config=older), rank) == index


def test_in_place_a_quantised_or_repacked_model_is_refused_before_anything_changes() -> None:
    with pytest.raises(UnsupportedError, match="fp8"):
        InPlaceLoad([Target(Model(), SimpleNamespace(quantization="fp8"), True)], CPU)
    model = Model()
    model.two.weight = torch.nn.Parameter(torch.empty(0), requires_grad=False)
    with pytest.raises(UnsupportedError, match=r"two\.weight"):
        InPlaceLoad([Target(model, plain(), True)], CPU)


class Info:
    """The part of vLLM's ``LayerReloadingInfo`` that a load reads."""

    def __init__(self) -> None:
        self.active = False
        self.load_numel = 0
        self.loaded_weights: list[tuple[str, SimpleNamespace]] = []
        self.old: dict[str, torch.Tensor] = {}

    def can_load(self) -> bool:
        return self.active


class Reload:
    """A small version of reloading by layers: a layer is complete when it has received as many elements as its weight has."""

    def __init__(self) -> None:
        self.infos: dict[torch.nn.Module, Info] = {}

    def tools(self) -> ReloadTools:
        return ReloadTools(self.initialize, self.finalize, lambda layer: self.infos.setdefault(layer, Info()))

    def initialize(self, model: torch.nn.Module) -> None:
        for layer in model.modules():
            info = self.infos.setdefault(layer, Info())
            info.active = True
            for parameter in layer.parameters(recurse=False):
                info.old["weight"] = parameter.detach().clone()
                parameter.weight_loader = self._collect(layer)  # type: ignore[attr-defined]

    def _collect(self, layer: torch.nn.Module) -> object:
        def loader(parameter: torch.Tensor, value: torch.Tensor) -> None:
            info = self.infos[layer]
            info.loaded_weights.append(("weight", SimpleNamespace(arguments={"param": parameter, "value": value})))
            info.load_numel += value.numel()
            if info.load_numel >= parameter.numel():
                parameter.data.copy_(torch.cat([bound.arguments["value"] for _, bound in info.loaded_weights]))
                info.active = False

        return loader

    def finalize(self, model: torch.nn.Module, config: object) -> None:
        for layer in model.modules():
            info = self.infos[layer]
            if info.active and info.load_numel > 0:
                raise AssertionError("a layer that is half there would be processed")
            info.active = False


def halves(ring: torch.Tensor, name: str, value: float) -> list[Named]:
    ring.fill_(value)
    return [(name, ring.view(1, 2))]


def test_layers_that_buckets_split_do_not_refer_to_the_ring() -> None:
    model, reload, ring = Model(), Reload(), torch.zeros(2)
    load = LayerwiseLoad([Target(model, plain(), True)], reload.tools())
    for name, value in [("one.weight", 1.0), ("two.weight", 2.0), ("one.weight", 3.0), ("two.weight", 4.0)]:
        load.load(iter(halves(ring, name, value)))
    load.finish()
    assert model.one.weight.tolist() == [[1, 1], [3, 3]]
    assert model.two.weight.tolist() == [[2, 2], [4, 4]]
    assert load.changed


def test_an_abandoned_load_leaves_whole_layers() -> None:
    model, reload, ring = Model(), Reload(), torch.zeros(2)
    before = model.two.weight.clone()
    load = LayerwiseLoad([Target(model, plain(), True)], reload.tools())
    load.load(halves(ring, "two.weight", 9.0))
    assert not load.changed
    load.abandon()
    assert not load.changed
    assert torch.equal(model.two.weight, before)
    load = LayerwiseLoad([Target(model, plain(), True)], reload.tools())
    for value in (1.0, 2.0):
        load.load(halves(ring, "one.weight", value))
    load.abandon()
    assert load.changed
    assert torch.equal(model.two.weight, before)


def test_a_checkpoint_that_does_not_reach_all_parameters_is_an_error_unless_that_is_wanted() -> None:
    for complete in (True, False):
        model, reload, ring = Model(), Reload(), torch.zeros(2)
        load = LayerwiseLoad([Target(model, plain(), complete)], reload.tools())
        for value in (1.0, 2.0):
            load.load(halves(ring, "one.weight", value))
        if complete:
            with pytest.raises(LayoutError, match=r"has no tensors for 1 parameters of the model: two\.weight"):
                load.finish()
        else:
            load.finish()
