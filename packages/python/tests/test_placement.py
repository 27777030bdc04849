"""vLLM's expert load balancer moves experts: weights are loaded to their initial places."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckpt_worker.engines.vllm.placement import check_placement
from ckpt_worker.engines.vllm.target import Target
from ckpt_worker.engines.vllm.update import Served, take_update
from ckpt_worker.errors import UnsupportedError
from ckpt_worker.protocol.engine_call import UpdateCall


class Experts(torch.nn.Module):
    """Stores its map of experts as older versions do."""

    def __init__(self, places: torch.Tensor | None) -> None:
        super().__init__()
        self.logical_to_physical_map = places


class Runner(torch.nn.Module):
    """Stores it with its router's state, as newer versions do."""

    def __init__(self, places: torch.Tensor | None) -> None:
        super().__init__()
        self.eplb_state = SimpleNamespace(logical_to_physical_map=places)


FORMS: dict[str, type[Experts] | type[Runner]] = {"layer": Experts, "router": Runner}


def slots(experts: list[int], count: int) -> torch.Tensor:
    """Slots of each of ``count`` experts, where slot ``i`` contains ``experts[i]``, padded with -1."""
    width = max(experts.count(expert) for expert in range(count)) + 1
    rows = [[slot for slot, held in enumerate(experts) if held == expert] for expert in range(count)]
    return torch.tensor([row + [-1] * (width - len(row)) for row in rows])


def check(places: torch.Tensor | None, form: str, runner: Any = None) -> None:
    model = torch.nn.ModuleDict({"dense": torch.nn.Linear(1, 1), "experts": FORMS[form](places)})
    check_placement([Target(model, None, True)], runner)


@given(count=st.integers(1, 8), copies=st.integers(0, 20), form=st.sampled_from([*FORMS]), data=st.data())
def test_experts_are_where_they_were_at_the_start_or_the_first_that_is_not_is_named(
    count: int, copies: int, form: str, data: st.DataObject
) -> None:
    start = [*range(count), *(copy % count for copy in range(copies))]
    check(slots(start, count), form)
    now = data.draw(st.permutations(start))
    if now == start:
        return
    moved = {held for slot, held in enumerate(now) if held != start[slot]}
    missing = {slot for slot in range(count) if now[slot] != slot}
    with pytest.raises(UnsupportedError, match=rf"moved expert {min(moved | missing)} of 'experts'.*restart the engine"):
        check(slots(now, count), form)


@pytest.mark.parametrize("form", FORMS)
def test_engines_without_a_balancer_have_nothing_to_check(form: str) -> None:
    check(None, form)
    check(None, form, SimpleNamespace())
    check(None, form, SimpleNamespace(eplb_state=None))


@pytest.mark.parametrize(
    "state", [{"rebalanced": True, "pending_result": None}, {"rebalanced": False, "pending_result": object()}]
)
def test_moves_that_are_under_way_are_refused(state: dict[str, Any]) -> None:
    start = slots([0, 1, 2, 0], 3)
    idle = SimpleNamespace(rebalanced=False, pending_result=None)
    check(start, "router", SimpleNamespace(eplb_state=SimpleNamespace(model_states={"a": idle})))
    states = {"a": idle, "b": SimpleNamespace(**state)}
    with pytest.raises(UnsupportedError, match="is moving experts"):
        check(start, "router", SimpleNamespace(eplb_state=SimpleNamespace(model_states=states)))


def test_an_update_of_an_engine_that_has_moved_experts_is_refused_before_anything_changes() -> None:
    served = Served(version="step-1")
    target = Target(torch.nn.ModuleDict({"experts": Runner(slots([1, 0], 2))}), SimpleNamespace(quantization=None), True)
    call = UpdateCall(endpoints=[], token="t", timeout_ms=1000)
    with pytest.raises(UnsupportedError, match="moved expert 0"):
        take_update(call, "ipc:///nowhere", "uuid", [target], torch.device("cpu"), served)
    assert (served.version, served.dirty) == ("step-1", False)
