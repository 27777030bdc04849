"""Files that change between reading their header and reading their bytes: the old tensors, or an error that names the file,
never a mix.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckpt_reference.files import CheckpointFiles
from ckpt_reference.opened import FileChangedError


def step(path: Path, number: int) -> None:
    """A file of one step; the header's length differs from step to step."""
    tensors = {"a": torch.full((64,), float(number)), "b": torch.full((64,), float(number) + 0.5)}
    save_file(tensors, path, metadata={"note": "x" * 8 * number})


def replace(path: Path) -> None:
    step(path.with_suffix(".new"), 2)
    os.replace(path.with_suffix(".new"), path)


def overwrite(path: Path) -> None:
    status = path.stat()
    with open(path, "r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(b"12345678")
    # A copy that keeps times hides nothing.
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def grow(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"x")


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("change", [replace, overwrite, cut, grow, remove], ids=lambda change: change.__name__)
@pytest.mark.parametrize("victim", [0, 1])
def test_a_file_that_changes_after_its_header_was_read_is_named(
    tmp_path: Path, change: Callable[[Path], None], victim: int
) -> None:
    paths = [tmp_path / "0.safetensors", tmp_path / "1.safetensors"]
    step(paths[0], 1)
    save_file({"c": torch.ones(3)}, paths[1])
    files = CheckpointFiles([str(path) for path in paths])
    change(paths[victim])
    if change is remove:
        with pytest.raises(FileNotFoundError, match=str(paths[victim])):
            list(files.read(["a", "b", "c"]))
        return
    with pytest.raises(FileChangedError, match="try again") as caught:
        list(files.read(["a", "b", "c"]))
    assert caught.value.file == str(paths[victim])


def test_a_file_that_is_replaced_while_it_is_read_is_read_as_it_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "0.safetensors"
    step(path, 1)
    files = CheckpointFiles([str(path)])
    reading = files.read(["a", "b"])
    name, tensor = next(reading)
    found = {name: tensor.clone()}
    replace(path)
    name, tensor = next(reading)
    found[name] = tensor.clone()
    with pytest.raises(FileChangedError):
        next(reading)
    # All of the old one, and the error that says that it is no longer there.
    assert {name: set(tensor.tolist()) for name, tensor in found.items()} == {"a": {1.0}, "b": {1.5}}
    again = dict(CheckpointFiles([str(path)]).read(["a", "b"]))
    assert {name: set(tensor.tolist()) for name, tensor in again.items()} == {"a": {2.0}, "b": {2.5}}


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(OSError, match="not a regular file"):
        CheckpointFiles([str(tmp_path / "pipe.safetensors")])
