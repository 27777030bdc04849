"""Version directories of slime and Miles on the engines' machines, without a shared file system.

Trainer: ``--custom-update-weight-post-write-path ckpt.integrations.slime.publish`` offers the files of a written version.
Engine: ``--sglang-custom-pull-weights-pre-read-hook ckpt.integrations.slime.fetch`` gets those that its machine lacks. The
engine's processes need ``CKPT_PUBLISHED``, the addresses where trainers publish, ``host:port`` with commas between; each
trainer machine has one of them in ``CKPT_PUBLISH``. Both need the same ``CKPT_TOKEN``.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..choices import p2p
from ..engines import local_engine
from ..errors import error
from ..parameter_server import ParameterServer

if TYPE_CHECKING:
    import torch

PUBLISH: Final = "CKPT_PUBLISH"
PUBLISHED: Final = "CKPT_PUBLISHED"
#: Versions that stay published: engines may still read the previous one.
_KEPT: Final = 2
#: Time in seconds for a trainer machine to answer.
_ANSWER: Final = 60.0

_publisher: ParameterServer | None = None
_published: list[str] = []


def publish(args: Any, version_dir: str, rollout_engines: Any) -> None:
    """Offers the files of a version directory to :func:`fetch`. Does nothing in processes that are not the machine's first."""
    global _publisher
    if int(os.environ.get("LOCAL_RANK", "0")) != 0:
        return
    if _publisher is None:
        address = _variable(PUBLISH)
        _publisher = ParameterServer(rank=0, world_size=1, rendezvous=f"tcp://{address}", device="cpu", elastic=True)
    directory = Path(version_dir)
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    if not files:
        raise error("CHECKPOINT_UNREADABLE", f"{version_dir} has no files", file=version_dir)
    tensors = {path.relative_to(directory).as_posix(): _content(path) for path in files}
    name = directory.name
    if name in _published:
        _published.remove(name)
        _publisher.unregister_checkpoint(name, force=True)
    _publisher.register_checkpoint(name, named_tensors=tensors)
    _publisher.gather_metas(name)
    _publisher.publish_metas(name)
    _published.append(name)
    while len(_published) > _KEPT:
        _publisher.unregister_checkpoint(_published.pop(0), force=True)


def fetch(source_dir: str, target_version: int) -> None:
    """Gets the files of a version that this machine lacks, from every trainer machine, into ``source_dir``.

    A directory appears under its name only when it is complete.

    :raises CkptError: ``CHECKPOINT_UNKNOWN`` if no trainer offers the version.
    """
    name = f"weight_v{target_version:06d}"
    target = Path(source_dir) / name
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as directory:
        for address in _variable(PUBLISHED).split(","):
            _fetch(name, f"tcp://{address.strip()}", Path(directory) / "files")
        with contextlib.suppress(OSError):  # another process of this machine was faster
            os.rename(Path(directory) / "files", target)
    if not target.exists():
        raise error("CHECKPOINT_UNREADABLE", f"cannot make {target}", file=str(target))


def _fetch(name: str, address: str, directory: Path) -> None:
    def write(tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        for path, tensor in tensors:
            place = directory / path
            if not place.resolve().is_relative_to(directory.resolve()):
                raise ValueError(f"{path!r} is outside the directory")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(memoryview(tensor.numpy()))  # type: ignore[arg-type]

    directory.mkdir(exist_ok=True)
    with ParameterServer(rank=0, world_size=1, device="cpu", insecure=True) as ps:
        ps.fetch_metas(name, address, token=os.environ.get("CKPT_TOKEN"), timeout=_ANSWER)
        ps.update(name, engine=local_engine(write), strategy=p2p([0]))


def _content(path: Path) -> torch.Tensor:
    import torch

    size = path.stat().st_size
    return torch.from_file(str(path), size=size, dtype=torch.uint8) if size else torch.empty(0, dtype=torch.uint8)


def _variable(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise error("INVALID_ARGUMENT", f"{name} is not set: on {socket.gethostname()} it must be host:port", field=name)
    return value
