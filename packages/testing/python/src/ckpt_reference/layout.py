"""Position of a checkpoint's tensor in an engine's parameters, from name and shape alone, like vLLM's fused layers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

# Projections that share one parameter, with their rows stacked in this order.
_FUSED: Final[dict[str, tuple[str, int]]] = {
    "q_proj": ("qkv_proj", 0),
    "k_proj": ("qkv_proj", 1),
    "v_proj": ("qkv_proj", 2),
    "gate_proj": ("gate_up_proj", 0),
    "up_proj": ("gate_up_proj", 1),
}
# DeepSeek's low-rank attention: also fused, but every rank holds all of it.
_FUSED_WHOLE: Final[dict[str, tuple[str, int]]] = {
    "q_a_proj": ("fused_qkv_a_proj", 0),
    "kv_a_proj_with_mqa": ("fused_qkv_a_proj", 1),
}
_COLUMN_PARALLEL: Final = frozenset({"q_b_proj", "kv_b_proj", "embed_tokens", "lm_head"})
_ROW_PARALLEL: Final = frozenset({"o_proj", "down_proj"})
_EXPERT_PARTS: Final[dict[str, tuple[str, int]]] = {
    "gate_proj": ("w13", 0),
    "w1": ("w13", 0),
    "up_proj": ("w13", 1),
    "w3": ("w13", 1),
    "down_proj": ("w2", 0),
    "w2": ("w2", 0),
}
_EXPERT: Final = re.compile(r"(?P<prefix>.*\.experts)\.(?P<expert>\d{1,9})\.(?P<part>\w+)\.(?P<kind>[\w.]+)")
_MODULE: Final = re.compile(r"(?P<prefix>(?:.*\.)?)(?P<module>\w+)\.(?P<kind>\w+)")


class Slice(NamedTuple):
    """A range of one dimension, in elements."""

    dim: int
    start: int
    length: int


@dataclass(frozen=True)
class Placement:
    """Part of a tensor that an engine worker keeps, and its position in a parameter."""

    parameter: str
    #: Order of the parts of a parameter, which are stacked.
    order: int
    #: Index of the expert, if experts are stacked.
    expert: int | None
    #: Kept part of the tensor; None for all of it.
    kept: Slice | None


def place(name: str, shape: list[int], tp_rank: int, tp_size: int) -> Placement:
    """Returns the placement of a tensor.

    Rows (dimension 0) of column-parallel layers and columns (dimension 1) of row-parallel ones are divided evenly among the
    ranks. If the number of ranks does not divide a dimension, or no rule covers a name, every rank keeps the whole tensor.
    """

    def part(dim: int) -> Slice | None:
        if tp_size == 1 or dim >= len(shape) or shape[dim] == 0 or shape[dim] % tp_size:
            return None
        length = shape[dim] // tp_size
        return Slice(dim, tp_rank * length, length)

    match = _EXPERT.fullmatch(name)
    if match and match["part"] in _EXPERT_PARTS:
        stacked, order = _EXPERT_PARTS[match["part"]]
        parameter = f"{match['prefix']}.{stacked}_{match['kind'].replace('.', '_')}"
        # A scale of one element per tensor or row has no columns to divide.
        return Placement(parameter, order, int(match["expert"]), part(1 if stacked == "w2" else 0))
    match = _MODULE.fullmatch(name)
    if match:
        prefix, module, kind = match["prefix"], match["module"], match["kind"]
        if module in _FUSED:
            fused, order = _FUSED[module]
            return Placement(f"{prefix}{fused}.{kind}", order, None, part(0))
        if module in _FUSED_WHOLE:
            fused, order = _FUSED_WHOLE[module]
            return Placement(f"{prefix}{fused}.{kind}", order, None, None)
        if module in _COLUMN_PARALLEL:
            return Placement(name, 0, None, part(0))
        if module in _ROW_PARALLEL:
            return Placement(name, 0, None, part(1))
    return Placement(name, 0, None, None)
