"""Weight transfer for TRL's ``AsyncGRPOTrainer(weight_transfer=…)`` (TRL 1.9 and newer)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..choices import Engine
from ..errors import error
from ..names import Rename, rename_tensors
from ..parameter_server import ParameterServer
from .transfer import collect

if TYPE_CHECKING:
    import torch

_NAME = "weights"


class WeightTransfer:
    """Updates an engine with what the trainer streams.

    .. code-block:: python

        from ckpt import vllm
        from ckpt.integrations.trl import WeightTransfer

        AsyncGRPOTrainer(…, weight_transfer=WeightTransfer(vllm("http://127.0.0.1:8000")))

    :param engine: for example :func:`ckpt.vllm`.
    :param rename: see :func:`ckpt.rename_tensors`.
    :param options: of the :class:`ckpt.ParameterServer`.
    """

    def __init__(self, engine: Engine, *, rename: Rename | None = None, **options: Any) -> None:
        self._engine = engine
        self._rename = rename
        # TRL streams from its main process alone, also under torchrun.
        self._options = {"rank": 0, "world_size": 1, "insecure": True, **options}
        self._ps: ParameterServer | None = None
        #: Number of transfers; the engine reports it as its version.
        self.version = 0

    def init_weight_transfer(self) -> None:
        """Starts the rank. Calling it again does nothing."""
        if self._ps is None:
            self._ps = ParameterServer(**self._options)

    def pause(self) -> None:
        """Does nothing: the update itself pauses the engine, for the shorter time in which bytes move."""

    def send_weights(self, iterator: Iterator[tuple[str, torch.Tensor]]) -> None:
        """Collects the weights in host memory, and updates the engine with them.

        :raises CkptError: of the update; the engine keeps one version, or is marked as dirty.
        """
        if self._ps is None:
            raise error("INVALID_STATE", "init_weight_transfer was not called")
        tensors = rename_tensors(collect(iterator), rename=self._rename)
        self._ps.register_checkpoint(_NAME, named_tensors=tensors, pool="shared")
        try:
            self._ps.update(_NAME, engine=self._engine, version=f"step-{self.version + 1}")
            self.version += 1
        finally:
            self._ps.unregister_checkpoint(_NAME)

    def resume(self) -> None:
        """Does nothing: the update has resumed the engine."""

    def destroy(self) -> None:
        """Ends the rank. Calling it again does nothing."""
        ps, self._ps = self._ps, None
        if ps is not None:
            ps.close()
