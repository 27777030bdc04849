"""Models whose modules are wrapped and renamed, as by `--enable-lora` and torch.compile: completeness is judged by what is
written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from ckpt_worker.engines.vllm.coverage import Coverage
from ckpt_worker.engines.vllm.extension import drop_computed
from ckpt_worker.engines.vllm.target import Target
from ckpt_worker.errors import LayoutError

Wrap = Callable[[torch.nn.Module], torch.nn.Module]
NAMES = ("embed.weight", "layers.0.up.weight", "layers.1.up.weight")


class Lora(torch.nn.Module):
    """As vLLM wraps a layer that adapters may change: the layer gets a longer name, with adapters' weights next to it."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.base_layer = layer
        self.lora_a_stacked = torch.nn.Parameter(torch.zeros(8, 4), requires_grad=False)
        self.lora_b_stacked = torch.nn.Parameter(torch.zeros(4, 8), requires_grad=False)


class Compiled(torch.nn.Module):
    """As torch.compile wraps a module."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self._orig_mod = module


def nothing(module: torch.nn.Module) -> torch.nn.Module:
    return module


WRAPS: dict[str, tuple[Wrap, Wrap]] = {
    "plain": (nothing, nothing),
    "lora": (Lora, nothing),
    "compiled layers": (Compiled, nothing),
    "compiled model": (nothing, Compiled),
    "lora in a compiled layer": (lambda layer: Compiled(Lora(layer)), nothing),
    "compiled layers in a lora": (lambda layer: Lora(Compiled(layer)), Compiled),
}


def model(wrap: Wrap, outer: Wrap) -> torch.nn.Module:
    layers = torch.nn.ModuleList(torch.nn.ModuleDict({"up": wrap(torch.nn.Linear(4, 4, bias=False))}) for _ in range(2))
    return outer(torch.nn.ModuleDict({"embed": wrap(torch.nn.Embedding(4, 4)), "layers": layers})).requires_grad_(False)


def places(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Parameters by their names in checkpoints."""
    found = {}
    for name, parameter in module.named_parameters():
        if "lora_" not in name:
            found[name.replace("base_layer.", "").replace("_orig_mod.", "")] = parameter
    return found


def update(module: torch.nn.Module, names: Iterable[str], said: Callable[[str], str] | None) -> None:
    """One load of ``names``; the loader returns the result of ``said`` for them, or nothing."""
    coverage = Coverage([Target(module, SimpleNamespace(quantization=None), True)])
    with coverage.counting():
        for name in names:
            places(module)[name].data.copy_(torch.ones(4, 4))
        coverage.saw(0, None if said is None else {said(name) for name in names})
    coverage.check()


SAID: dict[str, Callable[[str], str] | None] = {
    "nothing": None,
    "names of the checkpoint": lambda name: name,
    "names of the model": lambda name: name.replace(".weight", ".base_layer.weight"),
    "names that are no parameters": lambda name: f"model.{name}",
}


@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize("wrapped", WRAPS)
def test_a_whole_checkpoint_is_complete_however_modules_are_wrapped_and_whatever_the_loader_says(
    wrapped: str, said: str
) -> None:
    module = model(*WRAPS[wrapped])
    assert sorted(places(module)) == sorted(NAMES)
    update(module, NAMES, SAID[said])


@pytest.mark.parametrize("missing", NAMES)
@pytest.mark.parametrize("wrapped", WRAPS)
def test_what_is_missing_is_named_however_modules_are_wrapped(wrapped: str, missing: str) -> None:
    module = model(*WRAPS[wrapped])
    with pytest.raises(LayoutError, match="has no tensors for 1 parameters") as caught:
        update(module, [name for name in NAMES if name != missing], SAID["names of the checkpoint"])
    own = next(name for name, parameter in module.named_parameters() if parameter is places(module)[missing])
    assert own in str(caught.value)


def test_what_a_runner_computed_with_the_old_weights_is_dropped_as_far_as_its_version_keeps_it() -> None:
    kinds = ("reset_lora_state", "reset_encoder_cache", "reset_mm_cache")
    for count in range(len(kinds) + 1):
        dropped: list[str] = []
        drop_computed(SimpleNamespace(**{kind: partial(dropped.append, kind) for kind in kinds[:count]}))
        assert dropped == [*kinds[:count]]
