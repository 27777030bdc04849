"""Lets SGLang's source be imported where its GPU packages are not installed.

Modules of the packages named here are made up as they are imported: whatever is asked of them exists, does nothing and is false. SGLang's
weight update uses none of them; its modules only import them. Nothing of SGLang, torch or checkpoint-engine is replaced.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any

import torch

_ABSENT = frozenset(
    "IPython av compressed_tensors jsonschema cuda decord deep_gemm flashinfer llguidance outlines sgl_kernel sniffio soundfile torch_memory_saver"
    " torchao torchvision traitlets triton tvm_ffi xgrammar".split()
)


class _Kind(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing()

    def __getitem__(cls, key: Any) -> Any:
        return cls

    def __iter__(cls) -> Iterator[Any]:
        return iter(())

    def __len__(cls) -> int:
        return 0

    def __or__(cls, other: Any) -> Any:
        return object

    def __ror__(cls, other: Any) -> Any:
        return object


class Nothing(metaclass=_Kind):
    """Takes every argument, has every attribute, is a decorator that decorates nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *args: Any, **options: Any) -> Any:
        if len(args) == 1 and not options and callable(args[0]) and not isinstance(args[0], Nothing):
            return args[0]
        return Nothing()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing()

    def __mro_entries__(self, bases: Any) -> tuple[type, ...]:
        return (Nothing,)

    def __getitem__(self, key: Any) -> Any:
        return Nothing()

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __or__(self, other: Any) -> Any:
        return object

    def __ror__(self, other: Any) -> Any:
        return object

    def __bool__(self) -> bool:
        return False

    def __lt__(self, other: Any) -> bool:
        return False

    def __ge__(self, other: Any) -> bool:
        return True

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.any_schema()


class _Module(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name == "__version__":
            return "99.0"
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (Nothing,), {"__module__": self.__name__})
        setattr(self, name, made)
        return made


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Only what no other finder has: this one is the last."""
        if fullname.partition(".")[0] not in _ABSENT:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = _Module(spec.name)
        module.__path__ = []
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        if module.__name__ == "triton.runtime":
            module.driver = types.SimpleNamespace()  # type: ignore[attr-defined]
        if module.__name__ == "triton":
            module.runtime = importlib.import_module("triton.runtime")  # type: ignore[attr-defined]


def install() -> None:
    """From here on those packages can be imported, and `torch.compile` leaves functions as they are: it would look for triton."""
    sys.meta_path.append(_Finder())

    def leave(function: Any = None, **_: Any) -> Any:
        return function if function is not None else (lambda inner: inner)

    setattr(torch, "compile", leave)
