"""What a tensor operation does to memory, by its schema and its tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch.utils._pytree import tree_leaves

#: Operations whose results do not depend on the values of their inputs, or that move no bytes.
VALUELESS: Final = frozenset(
    {"set_", "empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "new_empty", "new_zeros"}
    | {"new_ones", "new_full", "new_empty_strided", "is_same_size", "is_pinned", "sym_size", "sym_stride", "sym_numel"}
    | {"sym_storage_offset", "record_stream"}
)


def changes(destination: torch.Tensor, source: torch.Tensor) -> str | None:
    """Returns the reason why a copy changes bytes."""
    if destination.dtype != source.dtype:
        return f"it is cast from {source.dtype} to {destination.dtype}"
    if any(t.is_conj() or t.is_neg() for t in (destination, source)):
        return "it is copied with its sign or conjugate changed"
    if any(stride == 0 and count > 1 for count, stride in zip(destination.shape, destination.stride(), strict=True)):
        return "it is copied to elements that share memory"
    return None


def written_by(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[torch.Tensor]:
    """Yields the tensors that an operation writes to."""
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        value = args[index] if index < len(args) else kwargs.get(argument.name)
        for leaf in tree_leaves(value):
            if isinstance(leaf, torch.Tensor):
                yield leaf
