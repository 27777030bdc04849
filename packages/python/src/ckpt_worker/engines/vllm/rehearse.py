"""Lets vLLM's loaders run over tensors that have no data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch

from ...errors import UnsupportedError
from ...recording import Rehearsal
from .coverage import is_adapter
from .experts import ExpertKernels
from .feed import Named, without_completeness_checks
from .forms import CheckpointForms
from .layerwise import reload_tools
from .live import is_converted, live_layers
from .processing import conversion
from .target import Target
from .tied import TiedParameters


def rehearse(targets: list[Target], rehearsal: Rehearsal, named: Sequence[Named]) -> Mapping[str, torch.Tensor]:
    """Rehearses a load of complete models; returns the parameters that it has to reach.

    :raises UnsupportedError: with the reason, if a layer's parameters are in another form than its loader expects.
    """
    forms, converted = _check_form(targets)
    TiedParameters(targets).rehearse([name for name, _ in named], rehearsal)
    try:
        forms.present(converted)
        with without_completeness_checks(), torch.no_grad():
            for target in targets:
                with _kept(target.model):
                    target.model.load_weights(iter(named))  # type: ignore[operator]
    finally:
        forms.restore()
    return {
        f"{index}: {name}": parameter.data
        for index, target in enumerate(targets)
        for name, parameter in target.model.named_parameters()
        if not is_adapter(name)
    }


def _check_form(targets: list[Target]) -> tuple[CheckpointForms, list[torch.nn.Module]]:
    converted: list[torch.nn.Module] = []
    tools = reload_tools()
    if tools is None:
        raise UnsupportedError("this version of vLLM does not keep the form in which layers are loaded")
    for target in targets:
        if not target.complete:
            raise UnsupportedError("a checkpoint may leave parameters out")
        live = set(found := live_layers(target.model, tools.info, ExpertKernels([target.model]).kept))
        for name, layer in target.model.named_modules():
            # One that was packed has an empty parameter.
            if layer not in live and next(layer.parameters(recurse=False), None) is not None:
                why = conversion(layer)
                raise UnsupportedError(
                    f"vLLM has brought {name!r} ({type(layer).__name__}) into another form than the checkpoint's"
                    + (f": {why}" if why else "")
                )
        converted += [layer for layer in found if is_converted(layer)]
    return CheckpointForms(tools.info), converted


@contextlib.contextmanager
def _kept(model: torch.nn.Module) -> Iterator[None]:
    """Gives parameters their memory back, should a loader replace it."""
    before = [(parameter, parameter.data) for parameter in model.parameters()]
    try:
        yield
    finally:
        for parameter, data in before:
            if parameter.data.is_meta or parameter.data.data_ptr() != data.data_ptr():
                parameter.data = data
