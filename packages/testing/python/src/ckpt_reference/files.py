"""Reads safetensors files with the ``safetensors`` package, independently of ckpt's update."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import deserialize, safe_open

from ckpt_worker.loading.torch_dtypes import TORCH_DTYPES, from_bytes
from ckpt_worker.protocol.dtypes import packed_shape

from .opened import FileIdentity, opened


class CheckpointFiles:
    """Tensors of several files by name. Headers are read at once, bytes on request, from the same files.

    :raises FileChangedError: here or in :meth:`read`, naming a file that was replaced or written to meanwhile.
    """

    def __init__(self, paths: list[str]) -> None:
        self._files: dict[str, str] = {}
        self._dtypes: dict[str, str] = {}
        self._shapes: dict[str, list[int]] = {}
        self._identities: dict[str, FileIdentity] = {}
        for path in paths:
            with opened(path) as (link, identity), safe_open(link, framework="pt") as file:
                self._identities[path] = identity
                for name in file.keys():  # noqa: SIM118 (it is no mapping)
                    if name in self._files:
                        raise ValueError(f"tensor {name!r} is in {self._files[name]} and in {path}")
                    view = file.get_slice(name)
                    self._files[name] = path
                    self._dtypes[name] = view.get_dtype()
                    self._shapes[name] = list(view.get_shape())

    def shapes(self) -> dict[str, list[int]]:
        """Returns the shape of every tensor as an engine sees it (bytes in the last dimension for sub-byte dtypes)."""
        return {
            name: shape if self._dtypes[name] in TORCH_DTYPES else packed_shape(self._dtypes[name], shape)
            for name, shape in self._shapes.items()
        }

    def read(self, names: list[str], device: torch.device | None = None) -> Iterator[tuple[str, torch.Tensor]]:
        """Returns the tensors of these names, in separate memory (of ``device``, default: the CPU). Opens each file once."""
        by_file: dict[str, list[str]] = {}
        for name in names:
            by_file.setdefault(self._files[name], []).append(name)
        for path, wanted in by_file.items():
            plain = [name for name in wanted if self._dtypes[name] in TORCH_DTYPES]
            packed = set(wanted).difference(plain)
            with opened(path, self._identities[path]) as (link, _):
                if plain:
                    with safe_open(link, framework="pt", device=str(device or "cpu")) as file:
                        for name in plain:
                            yield name, file.get_tensor(name)
                if packed:
                    yield from self._read_packed(link, packed)

    def _read_packed(self, path: str, names: set[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """Reads dtypes that safetensors cannot return as tensors, as bytes."""
        for name, view in deserialize(Path(path).read_bytes()):
            if name in names:
                data = torch.frombuffer(bytearray(view["data"]) or bytearray(1), dtype=torch.uint8)[: len(view["data"])]
                yield name, from_bytes(data, self._dtypes[name], self._shapes[name])
