"""Parameters of a model that share memory, such as an output head with its embeddings, and checkpoints that have both.

vLLM unties a head if the checkpoint that it is started with has a separate tensor for it, and loads one of the two if the head
is already tied. So a checkpoint with two different tensors would give other answers than a start from disk: it is refused.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ...errors import ConflictError
from ...loading.digest import digest
from ...recording import Rehearsal, Tracer
from ...recording.conflicts import conflict
from ...recording.watched import unseen
from .coverage import bare_name
from .target import Target


class TiedParameters:
    """Compares the tensors of one update for tied parameters."""

    def __init__(self, targets: list[Target]) -> None:
        """Call before layers change their form."""
        #: By the end of a tensor's name: the group's number, and its parameter.
        self._groups: dict[str, tuple[int, str]] = {}
        for target in targets:
            self._find(target.model)
        #: A tensor's name and digest, by group.
        self._came: dict[int, dict[str, tuple[str, int]]] = {}
        self._tracer: Tracer | None = None

    def watch(self, tracer: Tracer) -> None:
        """Called if the update is recorded."""
        self._tracer = tracer

    def saw(self, name: str, tensor: torch.Tensor) -> None:
        """Records a tensor.

        :raises ConflictError: naming two tensors with different bytes for parameters that are one.
        """
        end = _end(name)
        found = self._groups.get(end)
        if found is None or tensor.numel() == 0:
            return
        group, parameter = found
        with unseen():
            value = digest(getattr(tensor, "plain", tensor).contiguous())
        came = self._came.setdefault(group, {})
        for other_end, (other, other_value) in came.items():
            if other_end == end:
                continue
            if other_value != value:
                raise self._conflict(other, name, parameter)
            if self._tracer is not None:
                self._tracer.demand_same(other, name, parameter)
        came[end] = (name, value)

    def rehearse(self, names: Iterable[str], rehearsal: Rehearsal) -> None:
        """Requires equal bytes, in each update, of tensors for parameters that are one."""
        came: dict[int, dict[str, str]] = {}
        for name in names:
            end = _end(name)
            if end in self._groups:
                group, parameter = self._groups[end]
                for other_end, other in came.get(group, {}).items():
                    if other_end != end:
                        rehearsal.demand_same(other, name, parameter)
                came.setdefault(group, {})[end] = name

    def _conflict(self, first: str, second: str, parameter: str) -> ConflictError:
        error = conflict(first, second, parameter)
        text = f"{error}; vLLM started with this checkpoint would not tie them: restart the engine with it"
        return ConflictError(text, tensor=second)

    def _find(self, model: torch.nn.Module) -> None:
        places: dict[tuple[int, torch.Size], list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if parameter.numel() > 0 and not parameter.is_meta:
                places.setdefault((parameter.data_ptr(), parameter.shape), []).append(name)
        for names in places.values():
            ends = {_end(name) for name in names}
            if len(ends) > 1:
                group = len(self._groups)
                self._groups.update(dict.fromkeys(ends, (group, names[0])))


def _end(name: str) -> str:
    """Module and kind: the beginning of names differs between checkpoints and models."""
    return ".".join(bare_name(name).split(".")[-2:])
