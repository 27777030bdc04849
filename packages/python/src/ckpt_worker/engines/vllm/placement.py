"""Positions of an engine's experts. vLLM's expert load balancer (``--enable-eplb``) moves them while the engine serves.

Weights, and recorded routes, are loaded to the original positions of experts; the router uses their current ones. An update of
an engine that has moved any would give experts each other's weights, without an error.
"""

from __future__ import annotations

from typing import Any, Final

import torch

from ...errors import UnsupportedError
from .target import Target

_REMEDY: Final = "restart the engine, without --enable-eplb if it takes updates"


def check_placement(targets: list[Target], runner: Any = None) -> None:
    """Checks every layer's map of experts and, if the model runner is given, running moves.

    :raises UnsupportedError: if an expert is not at the position where its weights are loaded; nothing has changed then.
    """
    for target in targets:
        for name, layer in target.model.named_modules():
            moved = _first_moved(_places(layer))
            if moved is not None:
                text = (
                    f"the expert load balancer has moved expert {moved} of {name!r} from the position where weights are loaded"
                )
                raise UnsupportedError(f"{text}: {_REMEDY}")
    states = getattr(getattr(runner, "eplb_state", None), "model_states", None) or {}
    for state in states.values():
        if getattr(state, "rebalanced", False) or getattr(state, "pending_result", None) is not None:
            text = "the expert load balancer is moving experts, and would write old weights over new ones"
            raise UnsupportedError(f"{text}: {_REMEDY}, or set its use_async to false")


def _places(layer: torch.nn.Module) -> torch.Tensor | None:
    """Slots of each expert, -1 for none; from the layer or, in newer versions, from its router's state."""
    for holder in (getattr(layer, "eplb_state", None), layer):
        places = getattr(holder, "logical_to_physical_map", None)
        if isinstance(places, torch.Tensor) and places.dim() == 2:
            return places
    return None


def _first_moved(places: torch.Tensor | None) -> int | None:
    """Originally each expert has the slot of its own number; copies follow, in the order of the experts, repeatedly."""
    if places is None:
        return None
    count = places.shape[0]
    own = torch.arange(count, device=places.device).unsqueeze(1)
    here = torch.where(places < 0, own, places % count) == own
    moved = (~(here.all(dim=1) & (places == own).any(dim=1))).nonzero()
    return int(moved[0]) if len(moved) > 0 else None
