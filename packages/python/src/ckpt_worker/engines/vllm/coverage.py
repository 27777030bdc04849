"""Determines which parameters of a model the checkpoint covers: by the loader's writes, not by the names that it returns."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ...errors import LayoutError
from ...recording.watched import threads
from .target import Target

#: Parameters of adapters, which have separate checkpoints.
_ADAPTER: Final = re.compile(r"(^|\.)lora_")
#: Parts that wrappers add to the names of what they wrap.
_WRAPPER: Final = re.compile(r"(^|\.)(_orig_mod|base_layer)(?=\.)")


class Coverage:
    """Counts the elements that are written to each parameter of some models, however modules are wrapped and renamed."""

    def __init__(self, targets: list[Target]) -> None:
        """Call before layers change their form."""
        self._targets = targets
        self._models = [_Model(target) if target.complete else None for target in targets]
        self.active = True

    def begin(self) -> None:
        """Call when layers have the form in which they are loaded."""
        for model in self._models:
            if model is not None:
                model.begin()

    def saw(self, index: int, loaded: object) -> None:
        """``loaded`` is the result of ``load_weights`` of the target."""
        model = self._models[index]
        if model is not None and isinstance(loaded, set):
            # Parameters that a loader takes over without writing, such as a replaced one.
            model.named |= {bare_name(str(name)) for name in loaded}

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Context manager around loads."""
        if not any(self._models):
            yield
            return
        self.begin()
        with threads.followed(self):
            yield

    def thread(self) -> contextlib.AbstractContextManager[Any]:
        """Counts operations of this thread inside the block."""
        return _Writes([model for model in self._models if model is not None])

    @property
    def may_have_seen_writes(self) -> bool:
        """False if certainly no parameter was written to so far."""
        return any(model is None or model.has_writes for model in self._models)

    def trust(self) -> None:
        """Marks that the update has the same tensors as a checked one: none is missing, though not all are loaded."""
        self._models = [None for _ in self._models]

    def check(self, whole: Iterable[torch.nn.Module] = ()) -> None:
        """Checks all layers of models that are not quantised. Quantised models have parameters that no checkpoint has.

        :param whole: layers of quantised models that a checkpoint has whole, or not at all.
        :raises LayoutError: naming parameters that would keep their old values.
        """
        self.active = False
        layers = set(whole)
        for model in self._models:
            missing = set() if model is None else model.missing(layers)
            if missing:
                some = ", ".join(sorted(missing)[:5])
                text = f"the checkpoint has no tensors for {len(missing)} parameters of the model: {some}"
                raise LayoutError(text, tensor=min(missing))


class _Model:
    """One model's parameters, and the writes to them."""

    def __init__(self, target: Target) -> None:
        self._model = model = target.model
        self._quantised = getattr(target.config, "quantization", None) is not None
        names = {name for name, _ in model.named_parameters()}
        #: Further names of parameters that already have one.
        self._aliases = {name for name, _ in model.named_parameters(remove_duplicate=False)} - names
        self.named: set[str] = set()
        #: Elements written, by the storage's identity; the storages are kept so that the identity is not reused.
        self._written: dict[int, int] | None = None
        self._storages: dict[str, torch.UntypedStorage] = {}

    def begin(self) -> None:
        if self._written is not None:
            return
        self._written = {}
        for name, parameter in self._model.named_parameters(remove_duplicate=False):
            if name not in self._aliases and not is_adapter(name) and parameter.numel() > 0:
                self._storages[name] = parameter.untyped_storage()
                self._written[self._storages[name]._cdata] = 0

    def wrote(self, tensor: torch.Tensor) -> None:
        if self._written is None or tensor.layout != torch.strided or tensor.numel() == 0:
            return
        key = tensor.untyped_storage()._cdata
        if key in self._written:
            self._written[key] += tensor.numel()

    @property
    def has_writes(self) -> bool:
        """True if any parameter was written to."""
        return any((self._written or {}).values())

    def missing(self, whole: Collection[torch.nn.Module]) -> set[str]:
        """Returns parameters that received no element and are still the same."""
        written = self._written
        if written is None:
            self.begin()
            written = self._written or {}
        now = dict(self._model.named_parameters(remove_duplicate=False))
        alone = {
            name
            for name, storage in self._storages.items()
            if written[storage._cdata] == 0
            and name in now
            and now[name].untyped_storage()._cdata == storage._cdata
            and bare_name(name) not in self.named
        }
        if not self._quantised:
            return alone
        layers = {name: layer for name, layer in self._model.named_modules() if layer in whole}
        begun = {_layer(name) for name in self._storages if name not in alone}
        return {name for name in alone if _layer(name) in begun and _layer(name) in layers}


class _Writes(TorchDispatchMode):
    def __init__(self, models: list[_Model]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._models = models

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func._schema.is_mutable:
            for index, argument in enumerate(func._schema.arguments):
                if argument.is_write:
                    for leaf in tree_leaves(args[index] if index < len(args) else kwargs.get(argument.name)):
                        if isinstance(leaf, torch.Tensor):
                            for model in self._models:
                                model.wrote(leaf)
        return result


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def is_adapter(name: str) -> bool:
    """Returns True for a parameter of an adapter."""
    return _ADAPTER.search(name) is not None


def bare_name(name: str) -> str:
    """Returns ``name`` without the parts that wrappers add."""
    return _WRAPPER.sub("", name).lstrip(".")
