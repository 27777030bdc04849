"""Random engines: parameters, tensors, and a loader composed of typical operations, in their usual threads."""

from __future__ import annotations

import asyncio
import ctypes
import os
import queue
import random
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool

import numpy as np
import torch

Tensors = dict[str, torch.Tensor]
Work = Callable[[], object]
Carrier = Callable[[Work], object]
Write = Callable[[torch.Tensor, torch.Tensor], object]


class QueueThread:
    """A thread that was started before, and takes work from its queue."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[Work, threading.Event]] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            work, done = self._queue.get()
            try:
                with torch.no_grad():
                    work()
            except BaseException as error:
                self._failure = error
            finally:
                done.set()

    def __call__(self, work: Work) -> None:
        done = threading.Event()
        self._queue.put((work, done))
        assert done.wait(60)
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure


_pool, _thread_pool, _queue_thread = ThreadPoolExecutor(2), ThreadPool(2), QueueThread()
_pool.submit(int).result()


def _inside(work: Work) -> None:
    with ThreadPoolExecutor(2) as pool:
        pool.submit(work).result(60)


def _thread(work: Work) -> None:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60)


class _Subclass(threading.Thread):
    def __init__(self, work: Work) -> None:
        super().__init__(daemon=True)
        self._work = work

    def run(self) -> None:
        self._work()


def _subclass(work: Work) -> None:
    thread = _Subclass(work)
    thread.start()
    thread.join(60)


def _nested(work: Work) -> None:
    _thread(lambda: _pool.submit(lambda: _inside(work)).result(60))


def _asyncio(work: Work) -> None:
    async def both() -> None:
        await asyncio.gather(asyncio.to_thread(work), asyncio.sleep(0))

    asyncio.run(both())


def _fork(work: Work) -> None:
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


CARRIERS: dict[str, Carrier] = {
    "inline": lambda work: work(),
    "pool made before": lambda work: _pool.submit(work).result(60),
    "pool made inside": _inside,
    "thread": _thread,
    "subclass of Thread": _subclass,
    "threads in threads": _nested,
    "asyncio.to_thread": _asyncio,
    "multiprocessing's ThreadPool": lambda work: _thread_pool.apply(work),
    "thread with a queue": lambda work: _queue_thread(work),
    "child process": _fork,
}


def _by_pointer(target: torch.Tensor, tensor: torch.Tensor) -> None:
    if target.is_contiguous() and tensor.is_contiguous():
        ctypes.memmove(target.data_ptr(), tensor.data_ptr(), tensor.numel() * tensor.element_size())
    else:
        target.copy_(tensor)


def _by_storage(target: torch.Tensor, tensor: torch.Tensor) -> None:
    source = torch.empty(0, dtype=tensor.dtype)
    source.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())
    target.copy_(source)


def _by_numpy(target: torch.Tensor, tensor: torch.Tensor) -> None:
    np.copyto(target.numpy(), tensor.numpy())


def _whole(target: torch.Tensor, tensor: torch.Tensor) -> None:
    target.zero_()
    target.add_(tensor)


def _assigned(target: torch.Tensor, tensor: torch.Tensor) -> None:
    target[:] = tensor


def _rows(target: torch.Tensor, tensor: torch.Tensor) -> None:
    for mine, row in zip(target, tensor, strict=True):
        mine.copy_(row)


#: Ways of copying a tensor into memory of its shape, and whether they may be routes.
WRITES: dict[str, Write] = {
    "copied": lambda target, tensor: target.copy_(tensor),
    "assigned": _assigned,
    "copied by rows": _rows,
    "copied from detached": lambda target, tensor: target.data.copy_(tensor.data.detach()),
    "squeezed in place": lambda target, tensor: target.copy_(tensor.unsqueeze(0).squeeze_(0)),
    "in one step with a filling": _whole,
    "made contiguous": lambda target, tensor: target.copy_(tensor.t().contiguous().t()),
    "cloned": lambda target, tensor: target.copy_(tensor.clone()),
    "computed": lambda target, tensor: target.copy_(tensor * 3),
    "by numpy": _by_numpy,
    "by pointer": _by_pointer,
    "by its storage": _by_storage,
}


class Grammar:
    """One random engine. Equal seeds give equal engines."""

    def __init__(self, seed: int) -> None:
        choice = self._choice = random.Random(seed)
        self.kinds: list[str] = []
        self._shapes: dict[str, tuple[int, int]] = {}
        self._parameters: dict[str, tuple[int, int]] = {}
        self._steps: dict[str, Callable[[Tensors, torch.Tensor], object]] = {}
        self._same: dict[str, str] = {}
        carriers = choice.sample(sorted(CARRIERS), 2)
        for index in range(choice.randint(2, 6)):
            carrier = CARRIERS[name] if (name := choice.choice([*carriers, "inline"])) else None
            assert carrier is not None
            write = choice.choice(sorted(WRITES))
            self.kinds.append(f"{write} ({name})")
            choice.choice([self._alone, self._alone, self._fused, self._columns, self._skipped, self._twins])(
                f"p{index}", WRITES[write], carrier
            )

    def _alone(self, name: str, write: Write, carrier: Carrier) -> None:
        rows, columns = self._shape()
        self._parameters[name] = self._shapes[f"{name}.t"] = (rows, columns)
        self._steps[f"{name}.t"] = lambda p, t: carrier(lambda: write(p[name], t))

    def _fused(self, name: str, write: Write, carrier: Carrier) -> None:
        rows, columns = self._shape()
        self._parameters[name] = (3 * rows, columns)
        for part in range(3):
            self._shapes[f"{name}.{part}"] = (rows, columns)
            self._steps[f"{name}.{part}"] = self._part(name, slice(part * rows, (part + 1) * rows), write, carrier)

    def _part(self, name: str, rows: slice, write: Write, carrier: Carrier) -> Callable[[Tensors, torch.Tensor], object]:
        return lambda p, t: carrier(lambda: write(p[name][rows], t))

    def _columns(self, name: str, write: Write, carrier: Carrier) -> None:
        rows, columns = self._shape()
        self._parameters[name], self._shapes[f"{name}.t"] = (rows, columns), (rows, 2 * columns)
        self._steps[f"{name}.t"] = lambda p, t: carrier(lambda: write(p[name], t[:, columns:]))

    def _skipped(self, name: str, write: Write, carrier: Carrier) -> None:
        self._alone(name, write, carrier)
        self._shapes[f"{name}.other"] = self._shape()
        self._steps[f"{name}.other"] = lambda p, t: carrier(lambda: None)

    def _twins(self, name: str, write: Write, carrier: Carrier) -> None:
        self._alone(name, write, carrier)
        self._shapes[f"{name}.twin"] = self._shapes[f"{name}.t"]
        self._steps[f"{name}.twin"] = self._steps[f"{name}.t"]
        self._same[f"{name}.twin"] = f"{name}.t"

    def _shape(self) -> tuple[int, int]:
        return self._choice.randint(1, 9), self._choice.randint(1, 9)

    def make(self) -> Tensors:
        """Parameters; in memory that children share, which has no other effect."""
        made = {name: torch.zeros(shape, dtype=torch.int32).share_memory_() for name, shape in self._parameters.items()}
        return made | {"untouched": torch.ones(3, dtype=torch.int32)}

    def buckets(self, seed: int) -> list[Tensors]:
        """The tensors of one update."""
        generator = torch.Generator().manual_seed(seed)
        values = {
            name: torch.randint(-(1 << 30), 1 << 30, shape, dtype=torch.int32, generator=generator)
            for name, shape in self._shapes.items()
        }
        for name, other in self._same.items():
            values[name] = values[other].clone()
        names = sorted(values)
        half = len(names) // 2
        return [{name: values[name] for name in part} for part in (names[:half], names[half:]) if part]

    def load(self, parameters: Tensors, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """The engine's loader."""
        for name, tensor in tensors:
            self._steps[name](parameters, tensor)
