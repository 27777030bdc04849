"""The client with a real rank program: registrations, updates of real engine workers, errors, many updates."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import gc
import inspect
import pickle
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import ckpt
from ckpt import AsyncParameterServer, CheckpointError, CkptError, EngineError, OperationError, ParameterServer, control_engine
from ckpt.errors import CODES
from client_parts import EngineWorker, digests_of, engine_worker, left_behind, resident_bytes, weights
from conftest import ROOT

pytestmark = pytest.mark.usefixtures("rank_program")


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineWorker]:
    with engine_worker() as worker:
        yield worker


@pytest.fixture(scope="module")
def ps(rank_program: Path) -> Iterator[ParameterServer]:
    with ParameterServer(device="cpu", timeout=60) as server:
        yield server


def failure(error: pytest.ExceptionInfo[Any]) -> tuple[str, Any]:
    return error.value.code, error.value.fields.get("field")


def test_an_engine_has_every_bit_of_the_registered_tensors(ps: ParameterServer, engine: EngineWorker) -> None:
    assert (ps.rank, ps.world_size, ps.device) == (0, 1, "host")
    for step, options in enumerate([{}, {"pool": "shared"}, {"in_place": False}]):
        name, named = f"step-{step}", weights(step)
        ps.register_checkpoint(name, named_tensors=named, **options)  # type: ignore[arg-type]
        for tensor in named.values():
            tensor.zero_()  # the trainer goes on
        metas = ps.gather_metas(name)
        assert (metas.tensors, metas.ranks) == (len(named), 1)
        assert metas.bytes == sum(tensor.nbytes for tensor in named.values())
        done: list[int] = []
        report = ps.update(name, engine=control_engine(engine.path), on_progress=lambda *both, to=done: to.extend(both))
        assert (report.version, report.tensors) == (name, len(named))
        assert report.verified in ("sources", "bytes"), report.verification
        assert report.how
        assert done[-2:] == [metas.bytes, metas.bytes]
        assert engine.digests == digests_of(weights(step))
        assert [(state.version, state.dirty) for state in ps.engine_states()] == [(name, False)]
        ps.unregister_checkpoint(name)
    ps.release_pool()
    assert left_behind(ps.pid) == [path for path in left_behind(ps.pid) if "-near-" in path or Path(path).is_dir()]


def test_updates_may_be_direct_and_of_files(ps: ParameterServer, engine: EngineWorker, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(weights(7), tmp_path / "7.safetensors")
    ps.register_checkpoint("files", files=[tmp_path / "7.safetensors"])
    first = ps.update("files", engine=control_engine(engine.path), strategy=ckpt.broadcast())
    ps.unregister_checkpoint("files")
    ps.register_checkpoint("files", directory=tmp_path, share=(0, 1))
    ps.unregister_checkpoint("files")
    ps.register_checkpoint("files", named_tensors=weights(8).items())
    ps.update("files", engine=control_engine(engine.path), strategy=ckpt.direct(check_every=5))
    ready = ps.prepare("files", engine=control_engine(engine.path), verify="bytes")
    assert (ready.prepared, ready.reason) == (False, "a control engine cannot prepare")
    assert ps.gather_metas("files", engine=control_engine(engine.path)).ranks == 1
    second = ps.update("files", engine=control_engine(engine.path), strategy=ckpt.auto(), version="8", verify="bytes")
    assert (first.strategy, first.direct) == ("broadcast", None)
    assert (second.strategy, second.verified, second.version) == ("direct", "bytes", "8")
    assert engine.digests == digests_of(weights(8))
    ps.save_metas("files", tmp_path / "metas")
    assert ps.load_metas(tmp_path / "metas").digest == ps.get_metas("files").digest
    ps.unregister_checkpoint("files")


def test_failures_are_exceptions_with_code_fields_and_cause(ps: ParameterServer) -> None:
    nowhere = control_engine("/nonexistent/engine.sock")
    with pytest.raises(CheckpointError, match="no rank has registered wrong") as error:
        ps.update("wrong", engine=nowhere)
    assert (error.value.code, error.value.scope, error.value.retryable) == ("CHECKPOINT_UNKNOWN", "checkpoint", False)
    assert error.value.fields["checkpoint"] == "wrong"
    with pytest.raises(CheckpointError) as error:
        ps.unregister_checkpoint("wrong")
    assert failure(error) == ("CHECKPOINT_UNKNOWN", None)

    ps.register_checkpoint("there", named_tensors=weights(1))
    with pytest.raises(CheckpointError) as error:
        ps.register_checkpoint("there", named_tensors=weights(1))
    assert failure(error) == ("CHECKPOINT_EXISTS", None)
    with pytest.raises(EngineError, match=r"/nonexistent/engine\.sock") as lost:
        ps.update("there", engine=nowhere, timeout=0.3)
    assert failure(lost) == ("ENGINE_UNREACHABLE", None)
    assert lost.value.fields["rank"] == 0
    cause = lost.value.cause
    assert isinstance(cause, CkptError)
    assert cause is lost.value.__cause__
    again = pickle.loads(pickle.dumps(lost.value))  # noqa: S301
    assert (type(again), again.code, again.fields) == (EngineError, lost.value.code, lost.value.fields)
    assert str(again.cause) == str(cause)
    assert ps.health().state == "ready"
    ps.unregister_checkpoint("there")


def test_wrong_arguments_are_named(ps: ParameterServer) -> None:
    turned = {"fine": torch.ones(2), "turned": torch.arange(6).reshape(2, 3).t()}
    with pytest.raises(CkptError, match="make_contiguous=True") as error:
        ps.register_checkpoint("a", named_tensors=turned)
    assert error.value.fields["tensor"] == "turned"
    with pytest.raises(OperationError, match="'w': the name appears twice") as error:
        ps.register_checkpoint("a", named_tensors=[("w", torch.ones(1)), ("w", torch.ones(1))])
    assert failure(error) == ("INVALID_ARGUMENT", "named_tensors")
    for sources in ({}, {"files": ["x"], "directory": "y"}):
        with pytest.raises(OperationError, match="one of files, directory and named_tensors"):
            ps.register_checkpoint("a", **sources)  # type: ignore[arg-type]
    with pytest.raises(OperationError) as error:
        ps.update("a", engine=ckpt.vllm("http://127.0.0.1:1", socket_path="/x"))
    assert failure(error) == ("INVALID_ARGUMENT", "url")
    with pytest.raises(OperationError) as error:
        ps.update("a", engine=ckpt.sglang("ftp://x", parallel_size=2))
    assert failure(error) == ("INVALID_ARGUMENT", "url")
    with pytest.raises(OperationError) as error:
        ps.update("a", engine=control_engine("/x"), verify="all")  # type: ignore[arg-type]
    assert failure(error) == ("INVALID_ARGUMENT", "verify")
    with pytest.raises(OperationError) as error:
        ps.update("a", engine=control_engine("/x"), timeout=0)
    assert failure(error) == ("INVALID_ARGUMENT", "timeout")
    with pytest.raises(OperationError) as error:
        ParameterServer(device="tpu")
    assert failure(error) == ("INVALID_ARGUMENT", "device")
    with pytest.raises(TypeError, match="belongs to one process"):
        pickle.dumps(ps)


def test_a_call_that_its_caller_gives_up_is_cancelled(ps: ParameterServer) -> None:
    def give_up(done: int, total: int) -> None:
        raise KeyboardInterrupt

    named = {f"{i}": torch.zeros(1 << 20) for i in range(16)}
    with pytest.raises(KeyboardInterrupt):
        ps.register_checkpoint("given-up", named_tensors=named, in_place=False, on_progress=give_up)
    # Either it was too late, or nothing is registered; the name can be used at once in both cases.
    with contextlib.suppress(CheckpointError):
        ps.unregister_checkpoint("given-up")
    ps.register_checkpoint("given-up", named_tensors=weights(1))
    ps.unregister_checkpoint("given-up")


def test_two_hundred_updates_leave_no_memory_on_either_side(engine: EngineWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    # JavaScript collects its garbage only where it must: with a small heap, what remains is needed.
    monkeypatch.setenv("NODE_OPTIONS", "--max-old-space-size=24 --max-semi-space-size=1")
    with ParameterServer(device="cpu", timeout=60) as ps:
        _two_hundred_updates(ps, engine)


def _two_hundred_updates(ps: ParameterServer, engine: EngineWorker) -> None:
    named, to = weights(3), control_engine(engine.path)
    overheads = []

    def update(step: int) -> None:
        name = f"many-{step}"
        ps.register_checkpoint(name, named_tensors=named)
        started = time.perf_counter()
        report = ps.update(name, engine=to)
        overheads.append((time.perf_counter() - started) * 1000 - report.total_ms)
        ps.unregister_checkpoint(name)

    def resident() -> tuple[int, int]:
        gc.collect()
        return resident_bytes(ps.pid), resident_bytes(int(Path("/proc/self").readlink().name))

    for step in range(100):
        update(step)
    before = resident()
    for step in range(200):
        update(step)
    after = resident()
    overheads.sort()
    print(f"\noverhead of the client: median {overheads[len(overheads) // 2]:.2f} ms, 90 % {overheads[-26]:.2f} ms")
    print(f"anonymous memory, rank program and this process: {before} -> {after}")
    assert overheads[len(overheads) // 10] < 5  # in milliseconds; the rest is other work of this machine
    for now, then in zip(after, before, strict=True):
        assert now - then < 8 << 20  # 40 kB for each update
    assert len([path for path in left_behind(ps.pid) if not Path(path).is_dir()]) <= 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
@pytest.mark.usefixtures("rank_program")
def test_tensors_on_gpus_are_read_where_they_are() -> None:
    with engine_worker("cuda:0") as worker, ParameterServer(timeout=60) as ps:
        assert ps.device == "cuda"
        for step in (1, 2):
            named = {name: tensor.cuda() for name, tensor in weights(step).items()} | {"on_the_host": torch.ones(7)}
            ps.register_checkpoint(f"step-{step}", named_tensors=named)
            report = ps.update(f"step-{step}", engine=control_engine(worker.path), strategy=ckpt.auto())
            assert report.verified in ("sources", "bytes")
            assert worker.digests == digests_of(named)
            ps.unregister_checkpoint(f"step-{step}")


def test_coroutines_do_the_same(engine: EngineWorker) -> None:
    async def steps() -> list[float]:
        done: list[float] = []
        async with AsyncParameterServer(device="cpu", timeout=60) as ps:
            await ps.register_checkpoint("a", named_tensors=weights(11))
            # A call that is cancelled while it waits, and a loop that runs on meanwhile.
            waiting = asyncio.ensure_future(ps.update("a", engine=control_engine("/nonexistent/engine.sock")))
            done.append((await ps.gather_metas("a")).tensors)
            await asyncio.sleep(0.1)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            report = await ps.update(
                "a", engine=control_engine(engine.path), on_progress=lambda now, all: done.append(now / all)
            )
            assert report.version == "a"
            with pytest.raises(CheckpointError):
                await ps.get_metas("b")
        with pytest.raises(OperationError, match="closed"):
            await ps.health()
        return done

    done = asyncio.run(steps())
    assert (done[0], done[-1]) == (7, 1.0)
    assert engine.digests == digests_of(weights(11))


def test_both_classes_take_the_same_arguments() -> None:
    def signatures(kind: type) -> dict[str, inspect.Signature]:
        return {
            name: inspect.signature(member)
            for name, member in vars(kind).items()
            if inspect.isfunction(member) and (name == "__init__" or not name.startswith("_"))
        }

    asynchronous = signatures(AsyncParameterServer)
    del asynchronous["start"]
    assert signatures(ParameterServer) == asynchronous
    public = [*signatures(ParameterServer).items()]
    assert all(getattr(ParameterServer, name).__doc__ for name, _ in public if name != "__init__")


def test_codes_are_those_of_the_contract() -> None:
    text = (ROOT / "packages/contract/src/errors.ts").read_text()
    rows = re.findall(r"^  (\w+): \{ scope: '(\w+)', retryable: (true|false) \},$", text, re.MULTILINE)
    assert {code: (scope, retryable == "true") for code, scope, retryable in rows} == dict(CODES)


def test_its_own_example_is_a_program() -> None:
    example = inspect.cleandoc((ckpt.__doc__ or "").partition(".. code-block:: python\n")[2])
    assert "ps.update(" in ast.unparse(ast.parse(example))
