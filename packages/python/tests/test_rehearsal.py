"""A rehearsed load: what the loader does with tensors without data is what it does with real ones, or is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import pytest
import torch

from ckpt_worker import DirectState
from ckpt_worker.errors import StateError
from ckpt_worker.loading.digest import flat_bytes
from ckpt_worker.loading.torch_dtypes import DTYPE_NAMES
from ckpt_worker.recording import Rehearsal, SpotCheck
from ckpt_worker.recording.rehearsal import Described
from loaders import CARRIERS, WRITES, Grammar, Tensors
from test_recording import Engine, fused, weights, zeros

#: A loader's own thread may end where it needs a value.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

Load = Callable[[Tensors, Iterable[tuple[str, torch.Tensor]]], None]


def described(buckets: Iterable[Tensors]) -> list[Described]:
    return [(name, DTYPE_NAMES[t.dtype], list(t.shape)) for bucket in buckets for name, t in bucket.items()]


class Rehearsed(Engine):
    """An engine whose loader may be rehearsed."""

    def __init__(self, parameters: Tensors, load: Load, alone: Iterable[str] = (), unshared: str | None = None) -> None:
        """:param alone: parameters that the loader need not fill."""
        super().__init__(parameters, load, unshared=unshared)
        left = set(alone)

        def rehearse(rehearsal: Rehearsal, named: Sequence[tuple[str, torch.Tensor]]) -> Mapping[str, torch.Tensor]:
            load(parameters, iter(named))
            return {name: tensor for name, tensor in parameters.items() if name not in left}

        self.state = DirectState(lambda: self.parameters, self._touch, unshared=unshared, rehearse=rehearse)


def follow(engine: Rehearsed, other: Engine, buckets: Callable[[int], list[Tensors]]) -> str | None:
    """Rehearses, then updates by the result, beside an engine that only loads; returns the reason of a refusal."""
    other.stage(buckets(1))
    engine.stage(buckets(1))
    before = {name: tensor.clone() for name, tensor in engine.parameters.items()}
    try:
        reason = engine.state.rehearse(described(buckets(2)))
    except StateError as error:
        assert engine.touched
        return str(error)
    for name, tensor in before.items():
        assert torch.equal(tensor, engine.parameters[name]), f"{name} has changed"
    if reason is not None:
        assert engine.state.recording is None
        return reason
    assert engine.recording.rehearsed
    for step in (2, 3):
        other.stage(buckets(step))
        for parameter in engine.recording.parameters:
            flat_bytes(engine.parameters[parameter.name]).add_(91)
        engine.direct(buckets(step))
        for name, tensor in other.parameters.items():
            assert torch.equal(tensor, engine.parameters[name]), (name, step)
    return None


@pytest.mark.parametrize("seed", range(60))
def test_random_loaders_do_what_they_did_in_the_rehearsal(seed: int) -> None:
    grammar = Grammar(seed)
    engine = Rehearsed(grammar.make(), grammar.load, ["untouched"])
    follow(engine, Engine(grammar.make(), grammar.load), grammar.buckets)


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("write", WRITES)
def test_every_write_in_any_thread_is_followed_or_refused(write: str, carrier: str) -> None:
    def load(parameters: Tensors, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in tensors:
            CARRIERS[carrier](partial(WRITES[write], parameters[name], tensor))

    def buckets(seed: int) -> list[Tensors]:
        generator = torch.Generator().manual_seed(seed)
        return [{name: torch.randint(0, 1 << 30, (4, 6), dtype=torch.int32, generator=generator) for name in "ab"}]

    def make() -> Tensors:
        return {name: torch.zeros(4, 6, dtype=torch.int32).share_memory_() for name in "ab"}

    reason = follow(Rehearsed(make(), load), Engine(make(), load), buckets)
    if carrier == "inline" and write in ("copied", "assigned", "copied by rows", "copied from detached", "squeezed in place"):
        assert reason is None


def test_slices_of_fused_parameters_are_routes() -> None:
    def make() -> Tensors:
        return zeros(qkv=(12, 6), o=(6, 4), experts=(2, 6, 4), norm=(6,))()

    def buckets(seed: int) -> list[Tensors]:
        torch.manual_seed(seed)
        shapes = [(name, (8, 6)) for name in "qkv"] + [("o", (6, 8)), ("expert0", (6, 8)), ("expert1", (6, 8)), ("norm", (6,))]
        return [weights(*shapes)]

    engine = Rehearsed(make(), fused(1, 2))
    assert follow(engine, Engine(make(), fused(1, 2)), buckets) is None
    assert engine.opaque == {}
    assert len(engine.recording.routes) == 7


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (lambda p, t: p["a"].copy_(t) if t.sum().item() > 0 else None, "looks at values"),
        (lambda p, t: p["a"].copy_(t) if bool(t.any()) else None, "looks at values"),
        (lambda p, t: p["a"].copy_(torch.from_numpy(t.numpy())), "rehearsed: "),
        (lambda p, t: p["a"][:2].copy_(t[:2]), "not seen to fill 1 parameters"),
        (lambda p, t: setattr(p["a"], "data", t), "rehearsed: "),
        (lambda p, t: None, "not seen to fill 1 parameters"),
    ],
)
def test_loaders_that_cannot_be_followed_are_refused(step: Callable[[Tensors, torch.Tensor], object], reason: str) -> None:
    def load(parameters: Tensors, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        for _, tensor in tensors:
            step(parameters, tensor)

    engine = Rehearsed({"a": torch.ones(4, 6)}, load)
    found = engine.state.rehearse([("t", "F32", [4, 6])])
    assert found is not None
    assert reason in found
    assert engine.state.recording is None


def test_tensors_that_are_computed_with_are_opaque_and_the_rest_are_routes() -> None:
    def load(parameters: Tensors, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in tensors:
            parameters[name].copy_(-tensor if name == "a" else tensor.to("cpu"))

    engine = Rehearsed(zeros(a=(4, 6), b=(4, 6))(), load)
    assert engine.state.rehearse(described([weights(("a", (4, 6)), ("b", (4, 6)))])) is None
    assert engine.opaque.keys() == {"a"}
    assert "neg" in engine.opaque["a"]


def test_a_refused_rehearsal_leaves_the_recording() -> None:
    def load(parameters: Tensors, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in tensors:
            parameters[name].copy_(tensor)

    engine = Rehearsed(zeros(a=(4, 6))(), load)
    assert engine.state.rehearse(described([weights(("a", (4, 6)))])) is None
    known = engine.state.id
    assert "KeyError" in (engine.state.rehearse(described([weights(("other", (4, 6)))])) or "")
    assert "two tensors" in (engine.state.rehearse([("a", "BF16", [4, 6]), ("a", "BF16", [4, 6])]) or "")
    assert engine.state.id == known


def test_a_loader_that_does_something_else_with_data_is_found_by_the_first_check_and_not_rehearsed_again() -> None:
    def load(parameters: Tensors, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in tensors:
            parameters[name].copy_(tensor if tensor.is_meta else tensor.flip(0))

    def buckets(seed: int) -> list[Tensors]:
        torch.manual_seed(seed)
        return [weights(("a", (4, 6)))]

    engine = Rehearsed(zeros(a=(4, 6))(), load)
    assert engine.state.rehearse(described(buckets(1))) is None
    [tensors] = buckets(2)
    engine.direct([tensors])
    check = SpotCheck(["a"])
    check.keep(tensors.items())
    with pytest.raises(Exception, match="differs from what the engine's own loader writes"):
        engine.state.spot_check(check, lambda named: load(engine.parameters, named))
    assert engine.state.recording is None
    assert not engine.state.rehearses


def test_an_engine_without_a_rehearsable_loader_says_so() -> None:
    state = DirectState(dict)
    assert not state.rehearses
    assert state.rehearse([]) == "this engine's loader cannot be rehearsed"
