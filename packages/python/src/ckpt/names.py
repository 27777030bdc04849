"""Names of a trainer's tensors as names of a checkpoint: prefixes, renaming, experts, tied weights."""

from __future__ import annotations

import difflib
import json
import os
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from .errors import CkptError, error

#: Parts of names that wrappers insert anywhere: torch.compile, FSDP1, activation checkpointing.
_WRAPPERS: Final = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
#: Beginnings of names: DistributedDataParallel, DeepSpeed and Megatron; PEFT.
_BEGINNINGS: Final = ("module.", "base_model.model.")
#: Names that an error quotes on each side, and nearest candidates for each of them.
_QUOTED: Final = 5
_CANDIDATES: Final = 3
_EXPERT: Final = re.compile(r"(?P<head>(?:.*\.)?experts)\.(?P<number>\d+)\.(?P<leaf>\w+)(?P<kind>\.weight|\.bias)?")
_STACKED: Final = re.compile(r"(?P<head>(?:.*\.)?experts)\.(?P<leaf>\w+?)(?P<kind>_bias|\.weight|\.bias)?")

#: New names by old ones, or a function of the old name; None leaves the tensor out.
Rename = Mapping[str, str | None] | Callable[[str], str | None]


def rename_tensors(
    tensors: Mapping[str, Any],
    *,
    rename: Rename | None = None,
    strip: Iterable[str] = _BEGINNINGS,
    experts: Literal["split", "stack"] | None = None,
    fused: Mapping[str, tuple[str, ...]] | None = None,
    tied: Mapping[str, str] | None = None,
    expected: Iterable[str] | str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Returns tensors under the names of a checkpoint.

    In this order: parts that wrappers inserted are removed (``_orig_mod.``, ``_fsdp_wrapped_module.`` and
    ``_checkpoint_wrapped_module.`` anywhere, ``strip`` at the beginning, repeatedly); ``rename`` is applied; experts are
    divided or joined; tied weights are added; the names are compared with ``expected``.

    :param rename: new names by old ones (names that it lacks stay), or a function of the name. None as a new name leaves the
        tensor out.
    :param strip: beginnings of names to remove (default ``module.`` and ``base_model.model.``).
    :param experts: ``split``: a tensor ``….experts.NAME`` of all experts becomes ``….experts.0.NAME.weight`` and so on;
        ``stack`` is the reverse. Default: they stay.
    :param fused: with ``split``, parts of a fused tensor, which are of equal size in the dimension after the expert's (default
        ``{"gate_up_proj": ("gate_proj", "up_proj")}``; with ``{}`` none is divided). With ``stack`` they are joined.
    :param tied: names to add, each with the name whose tensor it shares, such as
        ``{"lm_head.weight": "model.embed_tokens.weight"}``. Without need: names that ``expected`` lacks are left out if they
        share their memory with one that it has.
    :param expected: names of the checkpoint, or a directory with its safetensors files.
    :raises OperationError: ``INVALID_ARGUMENT``: two tensors have the same new name, or the names differ from ``expected``.
        ``fields`` has all of them, as ``unknown`` and ``missing``; the message has the first ones, each with the nearest
        names of the other side.
    """
    renamed: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for old, tensor in tensors.items():
        name = _renamed(_stripped(old, tuple(strip)), old, rename)
        if name is None:
            continue
        if name in renamed:
            text = f"tensors {origin[name]!r} and {old!r} would both be named {name!r}"
            raise error("INVALID_ARGUMENT", text, tensor=old, field="rename")
        renamed[name], origin[name] = tensor, old
    parts: dict[str, tuple[str, ...]] = {"gate_up_proj": ("gate_proj", "up_proj")} if fused is None else dict(fused)
    if experts == "split":
        renamed = _split(renamed, parts)
    elif experts == "stack":
        renamed = _stack(renamed, parts)
    for name, source in (tied or {}).items():
        if source not in renamed:
            raise _unknown_source(name, source, renamed)
        renamed.setdefault(name, renamed[source])
    return renamed if expected is None else _matched(renamed, _expected_names(expected))


def _stripped(name: str, beginnings: tuple[str, ...]) -> str:
    for part in _WRAPPERS:
        name = name.replace(part, "")
    while True:
        found = next((part for part in beginnings if name.startswith(part)), None)
        if found is None:
            return name
        name = name[len(found) :]


def _renamed(name: str, old: str, rename: Rename | None) -> str | None:
    if rename is None:
        return name
    if isinstance(rename, Mapping):
        return rename[name] if name in rename else rename.get(old, name)
    return rename(name)


def _split(tensors: Mapping[str, Any], fused: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, tensor in tensors.items():
        match = _STACKED.fullmatch(name)
        if match is None or _EXPERT.fullmatch(name) is not None or tensor.dim() < 2:
            result[name] = tensor
            continue
        head, leaf = match["head"], match["leaf"]
        kind = ".bias" if match["kind"] in ("_bias", ".bias") else ".weight"
        parts = fused.get(leaf, (leaf,))
        for number, own in enumerate(tensor.unbind(0)):
            if own.shape[0] % len(parts):
                text = f"tensor {name!r}: {own.shape[0]} rows of an expert cannot be divided into {', '.join(parts)}"
                raise error("INVALID_ARGUMENT", text, tensor=name, field="fused")
            for part, value in zip(parts, own.chunk(len(parts)), strict=True):
                result[f"{head}.{number}.{part}{kind}"] = value
    return result


def _stack(tensors: Mapping[str, Any], fused: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    import torch

    result: dict[str, Any] = {}
    groups: dict[tuple[str, str, str], dict[int, Any]] = {}
    for name, tensor in tensors.items():
        match = _EXPERT.fullmatch(name)
        if match is None:
            result[name] = tensor
        else:
            key = match["head"], match["leaf"], match["kind"] or ""
            groups.setdefault(key, {})[int(match["number"])] = tensor
    stacked: dict[tuple[str, str, str], Any] = {}
    for (head, leaf, kind), members in groups.items():
        missing = [number for number in range(max(members) + 1) if number not in members]
        if missing:
            text = f"{head}.*.{leaf}{kind}: expert {missing[0]} is missing, and expert {max(members)} is there"
            raise error("INVALID_ARGUMENT", text, tensor=f"{head}.{missing[0]}.{leaf}{kind}", field="experts")
        stacked[head, leaf, kind] = torch.stack([members[number] for number in range(len(members))])
    for whole, parts in fused.items():
        for head, _, kind in [key for key in stacked if key[1] == parts[0]]:
            if all((head, part, kind) in stacked for part in parts):
                stacked[head, whole, kind] = torch.cat([stacked.pop((head, part, kind)) for part in parts], dim=1)
    for (head, leaf, kind), tensor in stacked.items():
        result[f"{head}.{leaf}{'_bias' if kind == '.bias' else ''}"] = tensor
    return result


def _matched(tensors: dict[str, Any], expected: list[str]) -> dict[str, Any]:
    wanted = set(expected)
    places = {_place(tensor) for name, tensor in tensors.items() if name in wanted}
    unknown = [name for name in tensors if name not in wanted]
    aliases = {name for name in unknown if _place(tensors[name]) in places}
    unknown = [name for name in unknown if name not in aliases]
    missing = [name for name in expected if name not in tensors]
    if not unknown and not missing:
        return {name: tensor for name, tensor in tensors.items() if name not in aliases}
    raise _mismatch(unknown, missing, list(tensors), expected)


def _place(tensor: Any) -> object:
    """Returns what tensors have in common that are the same memory."""
    if tensor.numel() == 0 or getattr(tensor, "device_mesh", None) is not None:
        return id(tensor)
    return tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride()


def _mismatch(unknown: list[str], missing: list[str], ours: list[str], expected: list[str]) -> CkptError:
    lines = []
    for side, names, others in (
        ("the trainer's, which the checkpoint lacks", unknown, missing or expected),
        ("the checkpoint's, which the trainer lacks", missing, unknown or ours),
    ):
        if names:
            lines.append(f"{len(names)} of {side}:")
            lines += [f"  {name!r}{_nearest(name, others)}" for name in names[:_QUOTED]]
            if len(names) > _QUOTED:
                lines.append(f"  and {len(names) - _QUOTED} more")
    text = "names of tensors differ from the checkpoint's\n" + "\n".join(lines)
    return error("INVALID_ARGUMENT", text, field="named_tensors", unknown=unknown, missing=missing)


def _nearest(name: str, others: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(others), _CANDIDATES)
    return f", nearest: {', '.join(map(repr, found))}" if found else ""


def _unknown_source(name: str, source: str, tensors: Mapping[str, Any]) -> CkptError:
    text = f"{name!r} is tied to {source!r}, which the trainer lacks{_nearest(source, tensors)}"
    return error("INVALID_ARGUMENT", text, tensor=source, field="tied")


def _expected_names(expected: Iterable[str] | str | os.PathLike[str]) -> list[str]:
    if not isinstance(expected, str | os.PathLike):
        return list(expected)
    files = sorted(Path(expected).glob("*.safetensors"))
    if not files:
        text = f"expected: {os.fspath(expected)} has no safetensors files"
        raise error("INVALID_ARGUMENT", text, file=os.fspath(expected), field="expected")
    return [name for file in files for name in _names_in(file)]


def _names_in(file: Path) -> list[str]:
    try:
        with file.open("rb") as opened:
            (size,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(min(size, 1 << 28)))
            return [name for name in header if name != "__metadata__"]
    except (OSError, ValueError, struct.error, TypeError) as reason:
        text = f"expected: the header of {file} cannot be read: {reason}"
        raise error("CHECKPOINT_UNREADABLE", text, file=str(file)) from reason
