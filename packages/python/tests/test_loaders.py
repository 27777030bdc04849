"""Whatever a loader does, and in whichever threads: direct and replayed updates give the same result as the loader alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import pytest
import torch

from ckpt_worker import ConflictError, DigestMismatchError
from ckpt_worker.engines.vllm.target import Target
from ckpt_worker.engines.vllm.tied import TiedParameters
from ckpt_worker.loading.digest import flat_bytes
from ckpt_worker.recording import SpotCheck, TwinCheck
from loaders import CARRIERS, WRITES, Grammar, Tensors
from test_recording import Engine, put, weights, zeros

Load = Callable[[Tensors, Iterable[tuple[str, torch.Tensor]]], None]


def copy(target: torch.Tensor, tensor: torch.Tensor) -> None:
    target.copy_(tensor)


def agree(
    make: Callable[[], Tensors], load: Load, buckets: Callable[[int], list[Tensors]], *, repeated: bool = False
) -> tuple[Engine, Engine]:
    """Records one update of two engines, then makes direct and replayed ones; their bytes equal those of a third engine that
    only loads.

    :param repeated: the recorded update has the same contents as before.
    """
    alone, direct, replayed = Engine(make(), load), Engine(make(), load), Engine(make(), load, unshared="not shared")
    for engine in (alone, direct, replayed):
        if repeated:
            engine.stage(buckets(1))
        engine.stage(buckets(1), record=True)
    for step in (2, 3, 3, 4):
        alone.stage(buckets(step))
        for engine, write in ((direct, direct.direct), (replayed, replayed.replay)):
            if engine.state.recording is None:
                engine.stage(buckets(step), record=True)
            else:
                for parameter in engine.recording.parameters:
                    flat_bytes(engine.parameters[parameter.name]).add_(91)
                write(buckets(step))
            for name, tensor in alone.parameters.items():
                found = engine.parameters[name]
                assert torch.equal(flat_bytes(tensor), flat_bytes(found)), (name, step, engine.state.refusal)
    return direct, replayed


@pytest.mark.parametrize("seed", range(40))
def test_random_loaders_are_followed_or_refused(seed: int) -> None:
    grammar = Grammar(seed)
    agree(grammar.make, grammar.load, grammar.buckets, repeated=seed % 2 == 0)


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("carrier", CARRIERS)
def test_copies_in_any_thread_are_routes_or_opaque(carrier: str, repeated: bool) -> None:
    def load(parameters: Tensors, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in tensors:
            if name == "w":
                CARRIERS[carrier](partial(copy, parameters["a"], tensor))
            elif name == "plain":
                parameters["b"].copy_(tensor)

    def make() -> Tensors:
        return {name: tensor.share_memory_() for name, tensor in zeros(a=(4, 6), b=(4,))().items()}

    def buckets(seed: int) -> list[Tensors]:
        torch.manual_seed(seed)
        return [weights(("w", (4, 6)), ("plain", (4,)), ("skipped", (3,)))]

    engine, _ = agree(make, load, buckets, repeated=repeated)
    routed = {engine.recording.tensors[route.tensor][0] for route in engine.recording.routes}
    if carrier == "child process":
        assert routed == {"plain"}
        # It is unknown which of them the child has used.
        assert engine.opaque.keys() == {"w", "skipped"}
        assert "started a process" in engine.opaque["w"]
    else:
        assert routed == {"w", "plain"}
        assert engine.opaque == {}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("carrier", ["thread with a queue", "pool made before"])
def test_every_write_in_a_thread_that_was_there_before(write: str, carrier: str) -> None:
    def load(parameters: Tensors, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in tensors:
            CARRIERS[carrier](partial(WRITES[write], parameters[name], tensor))

    def buckets(seed: int) -> list[Tensors]:
        generator = torch.Generator().manual_seed(seed)
        return [{name: torch.randint(0, 1 << 30, (4, 6), dtype=torch.int32, generator=generator) for name in "ab"}]

    for repeated in (False, True):
        agree(lambda: {name: torch.zeros(4, 6, dtype=torch.int32) for name in "ab"}, load, buckets, repeated=repeated)


ONWARDS: dict[str, Callable[[torch.Tensor, torch.Tensor], object]] = {
    "copied": lambda target, parameter: target.copy_(parameter),
    "copied in part": lambda target, parameter: target[1:].copy_(parameter[:-1]),
    "added": lambda target, parameter: target.zero_().add_(parameter),
    "computed": lambda target, parameter: target.copy_(parameter * 2),
    "by out": lambda target, parameter: torch.mul(parameter, 3, out=target),
    "by index": lambda target, parameter: target.index_copy_(0, torch.arange(4), parameter.flip(0)),
    "by two steps": lambda target, parameter: target.copy_(torch.empty_like(parameter).copy_(parameter)),
    "by numpy": lambda target, parameter: np.copyto(target.numpy(), parameter.numpy()),
}


@pytest.mark.parametrize("carrier", ["inline", "thread", "thread with a queue"])
@pytest.mark.parametrize("how", ONWARDS)
def test_a_parameter_that_the_loader_writes_on_to_another_is_left_to_it(how: str, carrier: str) -> None:
    def load(parameters: Tensors, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in tensors:
            parameters["other" if name == "beside" else "a"].copy_(tensor)
            if name == "w":
                CARRIERS[carrier](partial(ONWARDS[how], parameters["b"], parameters["a"]))

    def buckets(step: int) -> list[Tensors]:
        generator = torch.Generator().manual_seed(step)
        shapes = {"beside": (3,), "w": (4, 6)}
        return [{n: torch.randint(1, 1 << 20, shape, dtype=torch.int32, generator=generator)} for n, shape in shapes.items()]

    def make() -> Tensors:
        return {
            n: torch.zeros(s, dtype=torch.int32).share_memory_() for n, s in {"a": (4, 6), "b": (4, 6), "other": (3,)}.items()
        }

    # A thread that was there before is not watched: without a change of bytes, only a spot check shows what it did.
    for repeated in (False,) if carrier == "thread with a queue" else (False, True):
        agree(make, load, buckets, repeated=repeated)


def test_a_parameter_that_changes_unseen_refuses_the_recording() -> None:
    hidden = torch.zeros(600, dtype=torch.int32)
    view = hidden.numpy()
    turn = [0]

    def load(parameters: Tensors, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        turn[0] += 1
        for name, tensor in tensors:
            if name == "w":
                parameters["a"].copy_(tensor)
                view[turn[0]] = turn[0]

    engine = Engine({"a": torch.zeros(4, 6, dtype=torch.bfloat16), "hidden": hidden}, load)
    engine.stage([weights(("w", (4, 6)), ("other", (2,)))], record=True)
    assert engine.state.recording is None
    assert "hidden" in engine.state.refusal
    assert "outside torch" in engine.state.refusal


def test_a_part_of_a_parameter_that_changes_unseen_is_noticed_beside_a_copy() -> None:
    parameters = {"a": torch.zeros(3, 1024, dtype=torch.int32)}
    view = parameters["a"].numpy()
    turn = [0]

    def load(parameters: Tensors, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        turn[0] += 1
        for _, tensor in tensors:
            parameters["a"][0].copy_(tensor)
            view[2, 700] = turn[0]

    engine = Engine(parameters, load)
    engine.stage([{"w": torch.ones(1024, dtype=torch.int32)}], record=True)
    assert engine.state.recording is None
    assert "'a'" not in engine.state.refusal.replace("(a, …)", "")
    assert "1 parameters (a, …) changed" in engine.state.refusal


def test_a_thread_that_goes_on_after_the_loader_has_returned_refuses_the_recording() -> None:
    import threading

    gate, done = threading.Event(), threading.Event()

    def load(parameters: Tensors, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        taken = dict(tensors)

        def later() -> None:
            gate.wait(60)
            parameters["a"].copy_(taken["w"])
            done.set()

        threading.Thread(target=later, daemon=True).start()

    engine = Engine(zeros(a=(4, 6))(), load)
    tracer = engine.state.watch()
    ring, entries, named = put(weights(("w", (4, 6))))
    with tracer.watch(ring, entries, named) as given:
        load(engine.parameters, iter(given))
    gate.set()
    assert done.wait(60)
    engine.state.loaded(tracer)
    engine.state.record(tracer)
    assert engine.state.recording is None
    assert "after the loader had returned" in engine.state.refusal


def tied(parameters: Tensors, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    for name, tensor in tensors:
        parameters["norm" if name == "norm" else "embed"].copy_(tensor)


@pytest.mark.parametrize("apart", [False, True])
def test_two_tensors_with_different_bytes_for_one_place_are_an_error_that_names_them(apart: bool) -> None:
    def buckets(same: bool) -> list[Tensors]:
        values = weights(("embed", (4, 6)), ("head", (4, 6)), ("norm", (4,)))
        if same:
            values["head"] = values["embed"].clone()
        return [{name: tensor} for name, tensor in values.items()] if apart else [values]

    engine = Engine(zeros(embed=(4, 6), norm=(4,))(), tied)
    with pytest.raises(ConflictError, match=r"'embed' and 'head' are both loaded into parameter 'embed'"):
        engine.stage(buckets(False), record=True)
    assert engine.state.recording is None
    engine.stage(buckets(True), record=True)
    assert engine.opaque.keys() == {"embed", "head"}
    for same in (True, False):
        check: TwinCheck = engine.state.begin(engine.recording.id)
        for bucket in buckets(same):
            ring, entries, _ = put(bucket)
            for entry in entries:
                check.saw(entry, ring)
        if same:
            check.check()
        else:
            with pytest.raises(ConflictError, match="'embed'"):
                check.check()


@pytest.mark.parametrize("names", [["embed.weight"], ["head.weight"], ["embed.weight", "head.weight"]])
def test_vllm_s_tied_parameters_are_compared_and_that_does_not_count_as_a_use_of_the_tensors(names: list[str]) -> None:
    model = torch.nn.ModuleDict({"embed": torch.nn.Embedding(4, 6), "head": torch.nn.Linear(6, 4, bias=False)})
    model["head"].weight = model["embed"].weight
    compared = TiedParameters([Target(model, None, True)])

    def load(parameters: Tensors, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in tensors:
            compared.saw(name, tensor)
            parameters["embed" if name in names else name].copy_(tensor)

    engine = Engine(zeros(embed=(4, 6), norm=(4,))(), load)
    given = weights(*((name, (4, 6)) for name in names), ("norm", (4,)))
    for name in names:
        given[name] = given[names[0]]
    engine.stage([given], record=True)
    # Tensors that come once, or after a comparison, are copied unchanged.
    assert "norm" not in engine.opaque
    assert (names[0] in engine.opaque) == (len(names) > 1)


def test_a_later_tensor_over_a_part_of_an_earlier_one_is_an_error_too() -> None:
    def load(parameters: Tensors, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in tensors:
            (parameters["a"] if name == "whole" else parameters["a"][1:3]).copy_(tensor)

    engine = Engine(zeros(a=(4, 6))(), load)
    with pytest.raises(ConflictError, match=r"'whole' and 'part'"):
        engine.stage([weights(("whole", (4, 6)), ("part", (2, 6)))], record=True)


def test_a_spot_check_finds_a_loader_that_does_something_else_than_it_was_seen_to_do() -> None:
    swapped = [False]

    def load(parameters: Tensors, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in tensors:
            index = int(name[-1])
            parameters["experts"][1 - index if swapped[0] else index].copy_(tensor)

    def buckets() -> list[Tensors]:
        return [weights(("expert.0", (4, 6)), ("expert.1", (4, 6)))]

    engine = Engine(zeros(experts=(2, 4, 6))(), load)
    engine.stage(buckets(), record=True)

    def check(update: list[Tensors]) -> None:
        engine.direct(update)
        spot = SpotCheck(["expert.0"])
        for bucket in update:
            spot.keep(put(bucket)[2])
        engine.state.spot_check(spot, lambda named: load(engine.parameters, named))

    check(buckets())
    swapped[0] = True
    with pytest.raises(DigestMismatchError, match="'experts' differs from what the engine's own loader"):
        check(buckets())
    assert engine.state.recording is None
    assert "spot check" in engine.state.refusal
    # What was found to be wrong is never routed again.
    engine.stage(buckets(), record=True)
    assert engine.opaque == {"expert.0": "a spot check found its recorded routes wrong"}
