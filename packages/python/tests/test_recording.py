from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch

from ckpt_worker import DirectState, Recording, StaleRoutesError, UnsupportedError
from ckpt_worker.loading.digest import flat_bytes
from ckpt_worker.loading.torch_dtypes import DTYPE_NAMES
from ckpt_worker.protocol.messages import TensorEntry

Tensors = dict[str, torch.Tensor]
Load = Callable[[Tensors, Iterable[tuple[str, torch.Tensor]]], None]
Finish = Callable[[Tensors], None]


def weights(*shapes: tuple[str, tuple[int, ...]], dtype: torch.dtype = torch.bfloat16) -> Tensors:
    size = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[dtype.itemsize]
    return {name: torch.randint(0, 120, shape).to(size).view(dtype) for name, shape in shapes}


def put(tensors: Tensors) -> tuple[torch.Tensor, list[TensorEntry], list[tuple[str, torch.Tensor]]]:
    """A ring that contains the tensors, as the session passes it to a loader."""
    entries, end = [], 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        entries.append(TensorEntry(name, DTYPE_NAMES[tensor.dtype], list(tensor.shape), end, size))
        end += -(-size // 64) * 64
    ring = torch.zeros(max(end, 1), dtype=torch.uint8)
    named = []
    for entry in entries:
        data = ring[entry.offset : entry.offset + entry.size]
        data.copy_(flat_bytes(tensors[entry.name]))
        named.append((entry.name, data.view(tensors[entry.name].dtype).view(entry.shape)))
    return ring, entries, named


class Engine:
    """Parameters, a loader and its recorder."""

    def __init__(self, parameters: Tensors, load: Load, finish: Finish | None = None, unshared: str | None = None) -> None:
        self.parameters, self._load, self._finish = parameters, load, finish
        self.touched = False
        #: Tensors that the loader was given in direct and replayed updates.
        self.given: set[str] = set()
        self.state = DirectState(lambda: self.parameters, self._touch, unshared=unshared)

    def _touch(self) -> None:
        self.touched = True

    def stage(self, buckets: list[Tensors], record: bool = False) -> None:
        tracer = self.state.watch()
        for bucket in buckets:
            ring, entries, named = put(bucket)
            with tracer.watch(ring, entries, named) as given:
                self._load(self.parameters, iter(given))
        self.state.loaded(tracer)
        if self._finish:
            self._finish(self.parameters)
        if record:
            self.state.record(tracer)

    @property
    def recording(self) -> Recording:
        found = self.state.recording
        assert found is not None, self.state.refusal
        return found

    @property
    def opaque(self) -> dict[str, str]:
        return {self.recording.tensors[index][0]: reason for index, reason in self.recording.opaque.items()}

    def direct(self, buckets: list[Tensors]) -> None:
        """Writes routes through the handles, as a rank does, and loads opaque tensors normally."""
        recording = self.recording
        files = [torch.from_file(h["path"], shared=True, size=h["bytes"], dtype=torch.uint8) for h in self.state.handles()]
        tensors = {name: tensor for bucket in buckets for name, tensor in bucket.items()}
        for route in recording.routes:
            source = flat_bytes(tensors[recording.tensors[route.tensor][0]].contiguous())
            shape = (*(dim.length for dim in route.region.dims), route.region.row)
            take = source.as_strided(shape, (*(dim.source for dim in route.region.dims), 1), route.region.source)
            into = (*(dim.destination for dim in route.region.dims), 1)
            files[route.storage].as_strided(shape, into, route.region.destination).copy_(take)
        opaque = self.opaque
        for bucket in buckets:
            self._load_opaque(*put({name: tensor for name, tensor in bucket.items() if name in opaque}))
        if self._finish:
            self._finish(self.parameters)

    def _load_opaque(self, ring: torch.Tensor, entries: list[TensorEntry], named: list[tuple[str, torch.Tensor]]) -> None:
        """As the worker does it: what was cast before is cast, the loader gets the rest."""
        casts = self.state.casts()
        left = casts.run(ring, entries, named)
        self.given |= {name for name, _ in left}
        if left:
            self._load(self.parameters, iter(left))
        casts.compare(ring, entries)

    def replay(self, buckets: list[Tensors]) -> None:
        """Copies what was recorded, as the worker does if its parameters cannot be shared."""
        for bucket in buckets:
            ring, entries, named = put(bucket)
            left = self.state.replay().run(ring, entries)
            assert left == {entry.name for entry in entries} & self.opaque.keys()
            self._load_opaque(ring, entries, [one for one in named if one[0] in left])
        if self._finish:
            self._finish(self.parameters)


def compare(
    make: Callable[[], Tensors], load: Load, buckets: Callable[[], list[Tensors]], finish: Finish | None = None
) -> Engine:
    """Records one update; direct and replayed updates over overwritten parameters give the same bytes as loading."""
    engine, other = Engine(make(), load, finish), Engine(make(), load, finish)
    apart = Engine(make(), load, finish, "not shared")
    first, second = buckets(), buckets()
    for old in (engine, other, apart):
        old.stage(first, record=True)
    for update in (second, buckets()):
        other.stage(update)
        for one, write in ((engine, engine.direct), (apart, apart.replay)):
            if one.state.recording is None:
                one.stage(update)
                continue
            for parameter in one.recording.parameters:
                flat_bytes(one.parameters[parameter.name]).add_(91)
            write(update)
        for name, tensor in other.parameters.items():
            for one in (engine, apart):
                assert torch.equal(flat_bytes(tensor.contiguous()), flat_bytes(one.parameters[name].contiguous())), name
    return engine


def fused(rank: int, size: int) -> Load:
    """As vLLM loads: q, k and v in one parameter, divided by rows; o by columns; a norm as a whole; experts stacked."""

    def load(parameters: Tensors, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in tensors:
            if name in "qkv":
                rows = tensor.shape[0] // size
                parameters["qkv"].data.narrow(0, "qkv".index(name) * rows, rows).copy_(tensor.narrow(0, rank * rows, rows))
            elif name == "o":
                parameters["o"].data.copy_(tensor.chunk(size, dim=1)[rank])
            elif name.startswith("expert"):
                parameters["experts"].data[int(name[-1])].copy_(tensor[:, : tensor.shape[1] // size])
            else:
                parameters["norm"].data.copy_(tensor)

    return load


def test_views_are_routes() -> None:
    def buckets() -> list[Tensors]:
        return [
            weights(("q", (16, 8)), ("k", (16, 8)), ("norm", (8,))),
            weights(("v", (16, 8)), ("o", (8, 16)), ("expert0", (4, 8)), ("expert1", (4, 8))),
        ]

    def make() -> Tensors:
        return {
            name: torch.zeros(shape, dtype=torch.bfloat16)
            for name, shape in {"qkv": (24, 8), "o": (8, 8), "norm": (8,), "experts": (2, 4, 4)}.items()
        }

    engine = compare(make, fused(1, 2), buckets)
    assert engine.opaque == {}
    assert {parameter.name for parameter in engine.recording.parameters} == {"qkv", "o", "norm", "experts"}
    # Each tensor is one route, contiguous if possible.
    assert len(engine.recording.routes) == 7
    assert sum(not route.region.dims for route in engine.recording.routes) == 4


def one(name: str, shape: tuple[int, ...], **options: torch.dtype) -> Callable[[], list[Tensors]]:
    return lambda: [weights((name, shape), **options)]


def zeros(**shapes: tuple[int, ...]) -> Callable[[], Tensors]:
    return lambda: {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}


def single(work: Callable[[Tensors, torch.Tensor], object]) -> Load:
    def load(parameters: Tensors, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        for _, tensor in tensors:
            work(parameters, tensor)

    return load


@pytest.mark.parametrize(
    ("shape", "work"),
    [
        pytest.param((6, 4), lambda p, t: p["a"].copy_(t.t()), id="transposed view"),
        pytest.param((6, 4), lambda p, t: p["a"].t().copy_(t), id="into a transposed view"),
        pytest.param((24,), lambda p, t: p["a"].copy_(t.view(4, 6)), id="view"),
        pytest.param((2, 12), lambda p, t: p["a"].copy_(t.reshape(4, 6)), id="reshape without a copy"),
        pytest.param((8, 6), lambda p, t: p["a"].copy_(t[::2]), id="every second row"),
        pytest.param((4, 12), lambda p, t: p["a"].copy_(t[:, 1::2]), id="every second column"),
        pytest.param((1, 6), lambda p, t: p["a"].copy_(t.expand(4, 6)), id="expanded"),
        pytest.param((1, 6), lambda p, t: p["a"].copy_(t), id="broadcast by copy_"),
        pytest.param((4, 6), lambda p, t: p["a"].__setitem__(slice(None), t), id="assignment"),
        pytest.param((4, 6), lambda p, t: p["a"].view(torch.int16).copy_(t.view(torch.int16)), id="other element type"),
        pytest.param((2, 3, 4), lambda p, t: p["a"].copy_(t.permute(2, 0, 1).flatten(1)), id="permuted"),
        pytest.param((4, 6), lambda p, t: [p["a"].copy_(t), p["a"].copy_(t)], id="the same copy twice"),
    ],
)
def test_every_way_of_looking_at_a_tensor_is_a_route(
    shape: tuple[int, ...], work: Callable[[Tensors, torch.Tensor], object]
) -> None:
    engine = compare(zeros(a=(4, 6)), single(work), one("w", shape))
    assert engine.opaque == {}
    assert [parameter.name for parameter in engine.recording.parameters] == ["a"]


def looks(parameters: Tensors, tensor: torch.Tensor) -> None:
    if tensor.float().abs().sum().item() >= 0:
        parameters["a"].copy_(tensor)


def skips_by_bytes(parameters: Tensors, tensor: torch.Tensor) -> None:
    if tensor.view(torch.int16).numpy()[0, 0] >= 0:
        parameters["a"].copy_(tensor)


@pytest.mark.parametrize(
    ("reason", "work"),
    [
        pytest.param("computed with: aten.clone", lambda p, t: p["a"].copy_(t.t().contiguous().t()), id="transpose-contiguous"),
        pytest.param("computed with: aten._to_copy", lambda p, t: p["a"].copy_(t.float()), id="cast"),
        pytest.param("computed with: aten.mul", lambda p, t: p["a"].copy_(t * 2), id="scaled"),
        pytest.param("computed with: aten.cat", lambda p, t: p["a"].copy_(torch.cat([t[:2], t[2:]])), id="cat"),
        pytest.param("computed with: aten.add_", lambda p, t: p["a"].zero_().add_(t), id="padding with arithmetic"),
        pytest.param("also writes", lambda p, t: [p["a"].zero_(), p["a"][:2].copy_(t[:2])], id="padding with zeros"),
        pytest.param("also writes", lambda p, t: [p["a"][:2].copy_(t[:2]), p["a"][2:].fill_(0)], id="filled beside"),
        pytest.param("cast from", lambda p, t: p["f"].copy_(t), id="cast by copy_"),
        pytest.param("computed with", looks, id="skipped by value"),
        pytest.param("outside torch: numpy", skips_by_bytes, id="skipped by a value that numpy read"),
        pytest.param("computed with", lambda p, t: p["a"].copy_(torch.tensor(t.float().tolist())), id="lists"),
        pytest.param("is read", lambda p, t: p["a"].copy_(torch.empty_like(t).copy_(t)), id="by a copy between"),
        pytest.param("changed after", lambda p, t: [p["a"].copy_(t), p["a"][:1].copy_(t[1:2])], id="overlapping copies"),
        pytest.param("computed with", lambda p, t: p["a"].index_copy_(0, torch.arange(4), t), id="index_copy_"),
    ],
)
def test_whatever_is_computed_with_is_opaque(reason: str, work: Callable[[Tensors, torch.Tensor], object]) -> None:
    def both(parameters: Tensors, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in tensors:
            if name == "w":
                work(parameters, tensor)
            else:
                parameters["plain"].copy_(tensor)

    def make() -> Tensors:
        return {**zeros(a=(4, 6), plain=(4,))(), "f": torch.zeros(4, 6)}

    engine = compare(make, both, lambda: [weights(("plain", (4,)), ("w", (4, 6)))])
    assert list(engine.opaque) == ["w"]
    assert reason in engine.opaque["w"]
    assert [parameter.name for parameter in engine.recording.parameters] == ["plain"]


def test_what_is_loaded_after_a_look_at_values_is_opaque() -> None:
    def load(parameters: Tensors, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in tensors:
            if name == "flag":
                parameters["on"] = parameters["on"] + 0
                wanted = bool(tensor[0] > 50)
            elif name == "first":
                parameters["a"].copy_(tensor)
            elif wanted:
                parameters["b"].copy_(tensor)

    def buckets() -> list[Tensors]:
        return [weights(("first", (4,)), ("flag", (2,)), ("b", (4,)))]

    for _ in range(4):
        engine = Engine(zeros(a=(4,), b=(4,), on=(1,))(), load)
        engine.stage(buckets(), record=True)
        assert "first" not in engine.opaque
        assert "b" in engine.opaque or all(route.tensor != 2 for route in engine.recording.routes)


def test_replaced_and_changed_parameters_make_their_tensors_opaque() -> None:
    def load(parameters: Tensors, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in tensors:
            parameters[name].copy_(tensor)

    def finish(parameters: Tensors) -> None:
        parameters["replaced"] = parameters["replaced"].t().contiguous().t()
        parameters["changed"].copy_(parameters["changed"].flip(0))
        parameters["derived"] = parameters["kept"].float() * 2

    shapes = {"replaced": (4, 6), "changed": (4, 6), "kept": (4, 6)}
    engine = compare(
        lambda: {**zeros(**shapes)(), "derived": torch.zeros(4, 6)},
        load,
        lambda: [weights(*shapes.items())],
        finish,
    )
    assert {name: reason.split(",")[0] for name, reason in engine.opaque.items()} == {
        "replaced": "it is copied to memory that is no parameter",
        "changed": "its bytes were changed after they were copied",
    }
    assert engine.recording.parameters[0].name == "kept"


def test_tied_parameters_and_tensors_loaded_twice() -> None:
    def load(parameters: Tensors, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in tensors:
            parameters["embed"].copy_(tensor)
            if name == "w":
                parameters["copy"].copy_(tensor)

    def make() -> Tensors:
        embed = torch.zeros(4, 6, dtype=torch.bfloat16)
        return {"embed": embed, "head": embed, "copy": torch.zeros_like(embed)}

    engine = compare(make, load, one("w", (4, 6)))
    assert engine.opaque == {}
    assert len(engine.recording.routes) == 2
    assert engine.parameters["embed"].data_ptr() == engine.parameters["head"].data_ptr()
    # The same tensor twice: the last one counts, which a copy cannot know.
    twice = Engine(make(), load)
    twice.stage([weights(("w", (4, 6)))] * 2, record=True)
    assert twice.state.recording is None or "w" in twice.opaque


def test_skipped_tensors_are_neither_routed_nor_opaque() -> None:
    def load(parameters: Tensors, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in tensors:
            if name == "mine":
                parameters["a"].copy_(tensor)

    engine = compare(zeros(a=(4,)), load, lambda: [weights(("mine", (4,)), ("other", (4,)))])
    assert engine.opaque == {}
    assert [route.tensor for route in engine.recording.routes] == [0]
    assert [name for name, _, _ in engine.recording.tensors] == ["mine", "other"]


def test_a_recording_is_dropped_when_a_parameter_moves() -> None:
    engine = compare(zeros(a=(4, 6)), single(lambda p, t: p["a"].copy_(t)), one("w", (4, 6)))
    known = engine.state.id
    assert known is not None
    engine.state.begin(known)
    assert engine.touched
    with pytest.raises(StaleRoutesError, match="a different recording"):
        engine.state.begin("something else")
    engine.parameters["a"] = engine.parameters["a"].clone()
    assert engine.state.id is None
    with pytest.raises(StaleRoutesError, match="moved"):
        engine.state.begin(known)


def test_shared_parameters_leave_no_name_behind() -> None:
    before = set(Path("/dev/shm").iterdir())
    engine = compare(zeros(a=(4, 6)), single(lambda p, t: p["a"].copy_(t)), one("w", (4, 6)))
    assert engine.state.handles()[0]["kind"] == "file"
    assert set(Path("/dev/shm").iterdir()) <= before | {path for path in Path("/dev/shm").iterdir() if "torch" not in path.name}


def test_a_replay_refuses_tensors_that_were_not_recorded_and_ends_with_the_recording() -> None:
    engine = Engine(zeros(a=(4, 6))(), single(lambda p, t: p["a"].copy_(t)), unshared="they are not to be shared")
    engine.stage(one("w", (4, 6))(), record=True)
    with pytest.raises(UnsupportedError, match="not to be shared"):
        engine.state.handles()
    for other in (one("w", (6, 4)), one("w", (4, 6), dtype=torch.int16), one("v", (4, 6))):
        with pytest.raises(StaleRoutesError, match="not part of the recorded update"):
            engine.replay(other())
    engine.parameters["a"] = engine.parameters["a"].clone()
    with pytest.raises(StaleRoutesError, match="moved"):
        engine.replay(one("w", (4, 6))())


def test_what_is_set_aside_is_opaque_and_not_watched() -> None:
    parameters = zeros(a=(4, 6), b=(4, 6))()
    state = DirectState(lambda: parameters)
    tracer = state.watch()
    ring, entries, named = put(weights(("w", (4, 6)), ("v", (4, 6))))
    with tracer.watch(ring, entries, named):
        with tracer.aside("it is packed", {"of": [named[0][1]]}):
            # Outside, reading values would make everything after it opaque.
            assert named[0][1].float().sum().item() > 0
        parameters["b"].copy_(named[1][1])
    state.record(tracer)
    found = state.recording
    assert found is not None
    assert {found.tensors[index][0]: reason for index, reason in found.opaque.items()} == {"w": "it is packed"}
    assert [parameter.name for parameter in found.parameters] == ["b"]


def test_one_copy_out_of_several_tensors_is_one_route_a_tensor() -> None:
    """Like a loader that copies half of every row of evenly spaced tensors at once."""

    def load(parameters: Tensors, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        batch = [tensor for _, tensor in tensors]
        if not batch:
            return
        rows = sum(tensor.shape[0] for tensor in batch)
        whole = batch[0].as_strided((rows, 32), (64, 1), batch[0].storage_offset())
        parameters["a"].view(rows, 32).copy_(whole)

    shapes = [(f"w{index}", (100, 64)) for index in range(5)]
    engine = compare(zeros(a=(5, 100, 32)), load, lambda: [weights(*shapes)])
    assert engine.opaque == {}
    assert [route.tensor for route in engine.recording.routes] == [0, 1, 2, 3, 4]
    # Rows that straddle tensors.
    odd = [(f"w{index}", (8, 48)) for index in range(4)]

    def straddle(parameters: Tensors, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        for first in [tensor for _, tensor in tensors][:1]:
            parameters["b"].copy_(first.as_strided((12, 100), (110, 1), first.storage_offset()))

    engine = compare(zeros(b=(12, 100)), straddle, lambda: [weights(*odd)])
    assert engine.opaque == {}
