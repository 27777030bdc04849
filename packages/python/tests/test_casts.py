"""Tensors that a loader only casts: the worker casts them as the loader would, and leaves everything else to the loader."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping

import pytest
import torch

from loaders import Tensors
from test_loaders import agree
from test_recording import Engine

Load = Callable[[Tensors, Iterable[tuple[str, torch.Tensor]]], None]
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float64)
PLAIN = "plain"


def random_floats(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(shape, generator=generator) * 3
    if found.numel() > 2:
        found.view(-1)[:2] = torch.tensor([float("nan"), -0.0])
    return found.to(dtype)


def by_name(load: Callable[[Tensors, str, torch.Tensor], object]) -> Load:
    def all_of(parameters: Tensors, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in tensors:
            if name == PLAIN:
                parameters[PLAIN].copy_(tensor)
            else:
                load(parameters, name, tensor)

    return all_of


def engines(
    load: Callable[[Tensors, str, torch.Tensor], object],
    tensors: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
    parameters: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
) -> tuple[Engine, Engine]:
    """Four updates each, direct and replayed, compared with loading; one tensor beside the others is copied as it is."""

    def make() -> Tensors:
        found = {name: torch.zeros(shape, dtype=dtype).share_memory_() for name, (shape, dtype) in parameters.items()}
        return {**found, PLAIN: torch.zeros(4).share_memory_()}

    def buckets(step: int) -> list[Tensors]:
        found = {n: random_floats(shape, dtype, step * 100 + i) for i, (n, (shape, dtype)) in enumerate(tensors.items())}
        halves = len(found) // 2
        plain = {PLAIN: torch.full((4,), step + 0.5)}
        return [{**plain, **dict([*found.items()][:halves])}, dict([*found.items()][halves:])]

    return agree(make, by_name(load), buckets)


def cast_names(engine: Engine) -> set[str]:
    return {cast.tensor for cast in engine.recording.casts}


def test_scales_of_another_type_reach_the_loader_once() -> None:
    def load(parameters: Tensors, name: str, tensor: torch.Tensor) -> None:
        expert, part = divmod(int(name[1:]), 2)
        parameters["scales"][expert, part * 3 : part * 3 + 3].copy_(tensor)

    names = [f"s{index}" for index in range(8)]
    for engine in engines(load, dict.fromkeys(names, ((3, 2), torch.bfloat16)), {"scales": ((4, 6, 2), torch.float32)}):
        assert cast_names(engine) == {*names}
        engine.given.clear()
        engine_update(engine, names)
        assert engine.given == set()


def engine_update(engine: Engine, names: list[str]) -> None:
    tensors = {name: random_floats((3, 2), torch.bfloat16, 7) for name in names}
    update = engine.replay if isinstance(engine.recording.handles, str) else engine.direct
    update([{**tensors, PLAIN: torch.ones(4)}])
    for index, name in enumerate(names):
        expert, part = divmod(index, 2)
        found = engine.parameters["scales"][expert, part * 3 : part * 3 + 3]
        assert torch.equal(found.nan_to_num(1e9), tensors[name].float().nan_to_num(1e9))


@pytest.mark.parametrize("seed", range(40))
def test_random_casts_are_as_the_loader_makes_them(seed: int) -> None:
    choose = random.Random(seed)
    tensors: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    parameters: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    steps: dict[str, Callable[[Tensors, torch.Tensor], object]] = {}
    expected: set[str] = set()
    for index in range(choose.randint(1, 6)):
        rows, columns = choose.randint(1, 5), choose.randint(1, 7)
        name, source, target = f"t{index}", choose.choice(FLOATS), choose.choice(FLOATS)
        way = choose.choice(["whole", "rows", "columns", "transposed", "row by row", "shard", "twice", "computed", "derived"])
        tensors[name] = ((rows, columns), source)
        shape = {"transposed": (columns, rows), "rows": (rows + 2, columns), "columns": (rows, columns + 3)}.get(
            way, (rows, columns)
        )
        if way == "shard":
            shape = (rows, (columns + 1) // 2)
        parameters[name] = (shape, target)
        parameters[f"{name}.b"] = ((rows, columns), target)
        if source != target and way not in ("computed", "derived"):
            expected.add(name)

        def step(p: Tensors, t: torch.Tensor, name: str = name, way: str = way, columns: int = columns) -> None:
            into = p[name]
            if way == "rows":
                into[1:-1].copy_(t)
            elif way == "columns":
                into[:, 2:-1].copy_(t)
            elif way == "transposed":
                into.copy_(t.t())
            elif way == "row by row":
                for mine, row in zip(into, t, strict=True):
                    mine.copy_(row)
            elif way == "shard":
                into.copy_(t[:, : (columns + 1) // 2])
            elif way == "twice":
                into.copy_(t)
                p[f"{name}.b"].copy_(t)
            elif way == "computed":
                into.copy_(t.float() * 2)
            elif way == "derived":
                into.copy_(t)
                p[f"{name}.b"].copy_(into)
            else:
                into.copy_(t)

        steps[name] = step
    for engine in engines(lambda p, name, t: steps[name](p, t), tensors, parameters):
        assert cast_names(engine) == expected


LEFT: dict[str, Callable[[Tensors, str, torch.Tensor], object]] = {
    "scaled after the cast": lambda p, name, t: p[name].copy_(t).mul_(2),
    "scaled before the cast": lambda p, name, t: p[name].copy_(t * 2),
    "to one place": lambda p, name, t: p["a"].copy_(t),
    "over a part of the other": lambda p, name, t: p["a"][:2].copy_(t[:2]) if name == "b" else p["a"].copy_(t),
    "read besides": lambda p, name, t: p[name].copy_(t).add_(t.sum()),
    "guided by values": lambda p, name, t: p[name].copy_(t) if float(t.nan_to_num(0).sum()) > 0 else p[name].copy_(-t),
    "filled around it": lambda p, name, t: (p[name].fill_(3), p[name][:2].copy_(t[:2])),
    "to memory that is no parameter": lambda p, name, t: p[name].copy_(torch.empty(4, 4).copy_(t)),
}


@pytest.mark.parametrize("what", LEFT)
def test_whatever_else_is_done_is_left_to_the_loader(what: str) -> None:
    tensors = dict.fromkeys("ab", ((4, 4), torch.bfloat16))
    parameters = dict.fromkeys("ab", ((4, 4), torch.float32))
    for engine in engines(LEFT[what], tensors, parameters):
        assert cast_names(engine) == set()


def test_a_loader_that_later_does_something_else_is_noticed_in_the_first_update_after() -> None:
    calls = [0]

    def load(parameters: Tensors, name: str, tensor: torch.Tensor) -> None:
        calls[0] += 1
        parameters[name].copy_(tensor)
        if calls[0] > 1:
            parameters[name].neg_()

    engine = Engine({"a": torch.zeros(4), PLAIN: torch.zeros(4)}, by_name(load), unshared="not shared")
    update = [{"a": random_floats((4,), torch.bfloat16, 1), PLAIN: torch.ones(4)}]
    engine.stage(update, record=True)
    assert cast_names(engine) == {"a"}
    for step in (2, 3):
        engine.given.clear()
        engine.replay([{"a": torch.full((4,), step, dtype=torch.bfloat16), PLAIN: torch.ones(4)}])
        assert engine.given == {"a"}, "the loader has it, each time"
        assert engine.parameters["a"].tolist() == [-step] * 4


def test_parameters_that_move_make_the_recording_stale() -> None:
    engine = Engine(
        {"a": torch.zeros(4), PLAIN: torch.zeros(4)}, by_name(lambda p, name, t: p[name].copy_(t)), unshared="not shared"
    )
    engine.stage([{"a": torch.ones(4, dtype=torch.bfloat16), PLAIN: torch.ones(4)}], record=True)
    assert cast_names(engine) == {"a"}
    engine.parameters["a"] = torch.zeros(4)
    assert engine.state.recording is None
