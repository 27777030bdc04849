"""Tensors over the ring whose use is seen in any thread, and the threads that a loader starts."""

from __future__ import annotations

import contextlib
import copyreg
import functools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import thread as pool_threads
from multiprocessing.reduction import ForkingPickler
from typing import Any, Final, Protocol, cast

import torch
from torch.utils._pytree import tree_leaves, tree_map

Call = Callable[..., Any]


def _of_tensor(*names: str) -> frozenset[Call]:
    found = [getattr(torch.Tensor, name) for name in names if hasattr(torch.Tensor, name)]
    # A property is called through its getter.
    return frozenset(one if callable(one) else one.__get__ for one in found)


#: Calls that leave torch: their callers may read the bytes, unseen.
EXITS: Final = _of_tensor(
    *("numpy", "tolist", "__array__", "__dlpack__", "data_ptr", "__reduce_ex__", "__deepcopy__", "__cuda_array_interface__")
)
#: Those that hand out values. An address alone is asked of parameters for many reasons.
VALUES: Final = _of_tensor("numpy", "tolist", "__array__", "__dlpack__")
#: Calls that access a tensor's memory. Operations on that are seen if the thread is watched.
MEMORY: Final = _of_tensor("untyped_storage", "storage", "_typed_storage", "as_subclass", "share_memory_")


class Follower(Protocol):
    """State that continues in the threads that a watched thread starts."""

    @property
    def active(self) -> bool:
        """False once it is not needed any more."""

    def thread(self) -> contextlib.AbstractContextManager[None]:
        """Watches operations of the running thread inside the block."""


class Observer(Follower, Protocol):
    """Receives the uses of tensors."""

    def saw(self, func: Any, args: Any, kwargs: dict[str, Any], result: Any, *, watched: bool) -> None:
        """Handles one operation, after it was done; ``watched`` is false in a thread of which no other operation is seen."""

    def left(self, func: Call, tensors: list[torch.Tensor], *, watched: bool) -> None:
        """Handles a call that may let bytes of these tensors out of torch, or access their memory."""

    def over_ring(self, tensor: torch.Tensor) -> bool:
        """Returns True for a tensor over the ring."""


class Here(threading.local):
    """Observer of all operations of the running thread."""

    observer: Observer | None = None
    aside: int = 0
    #: True while this package itself reads tensors, which is not a use by the loader.
    own: bool = False
    #: Context for threads that this one starts.
    followers: tuple[Follower, ...] = ()


here: Final = Here()


@contextlib.contextmanager
def unseen() -> Iterator[None]:
    """Excludes reads of this thread inside the block from watching: they are not the loader's, and write nothing."""
    before, here.own = here.own, True
    try:
        with torch._C.DisableTorchFunction():
            yield
    finally:
        here.own = before


class Watched(torch.Tensor):
    """A tensor over the ring. It behaves like a plain one, and reports every use, in any thread, to its observer."""

    plain: torch.Tensor
    observer: Observer

    @classmethod
    def over(cls, plain: torch.Tensor, observer: Observer) -> Watched:
        """Returns a watched tensor over the same bytes."""
        with torch._C.DisableTorchFunction():
            made: Watched = torch.Tensor._make_subclass(cls, plain)
        made.plain, made.observer = plain, observer
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if func not in EXITS and func not in MEMORY:
                return func(*args, **kwargs)
            found = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Watched)]
            for one in found:
                _tell(one, func)
            args, kwargs = plain((args, kwargs))
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        kwargs = kwargs or {}
        mine = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Watched)]
        observer = mine[0].observer
        plain_args, plain_kwargs = plain((args, kwargs))
        result = func(*plain_args, **plain_kwargs)
        if observer.active and here.observer is not observer:
            observer.saw(func, plain_args, plain_kwargs, result, watched=False)
        if torch.Tag.inplace_view in func.tags:
            # The shape of the watched tensor itself also changes.
            with torch._C._DisableTorchDispatch():
                func(*args, **kwargs)
            return args[0]
        own = {id(one.plain): one for one in mine}

        def back(value: Any) -> Any:
            if not isinstance(value, torch.Tensor) or isinstance(value, Watched):
                return value
            if id(value) in own:
                return own[id(value)]
            return Watched.over(value, observer) if observer.active and observer.over_ring(value) else value

        return tree_map(back, result)


def plain(value: Any) -> Any:
    """Returns ``value`` with plain tensors in place of watched ones."""
    return tree_map(lambda one: one.plain if isinstance(one, Watched) else one, value)


def address_of(tensor: torch.Tensor) -> int:
    """Returns the address of a tensor's storage, for comparisons: it does not count as a use of the tensor."""
    with torch._C.DisableTorchFunction():
        return tensor.untyped_storage().data_ptr()


def _tell(tensor: Watched, func: Call) -> None:
    observer = tensor.observer
    if observer.active:
        observer.left(func, [tensor.plain], watched=here.observer is observer)


def _reduce(tensor: Watched) -> Any:
    _tell(tensor, torch.Tensor.__reduce_ex__)
    return tensor.plain.__reduce_ex__(2)


def _reduce_for_process(tensor: Watched) -> Any:
    _tell(tensor, torch.Tensor.__reduce_ex__)
    # As torch passes plain tensors to other processes, once it is set up for that.
    reducer = ForkingPickler._extra_reducers.get(torch.Tensor)  # type: ignore[attr-defined]
    return tensor.plain.__reduce_ex__(2) if reducer is None else reducer(tensor.plain)


copyreg.pickle(Watched, _reduce)
ForkingPickler.register(Watched, _reduce_for_process)


class Forks:
    """Counts the children that this process was forked into: they see the ring, and nothing sees them."""

    count = 0


def _forked() -> None:
    Forks.count += 1


os.register_at_fork(before=_forked)


class _Threads:
    """Also watches threads that a watched thread starts, and calls that it gives to thread pools."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._start: Any = threading.Thread.start
        self._submit: Any = ThreadPoolExecutor.submit
        self._starting: Any = None
        self._submitting: Any = None

    @contextlib.contextmanager
    def followed(self, follower: Follower) -> Iterator[None]:
        """Lets ``follower`` see the running thread inside the block, and the threads that it starts."""
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._install()
        try:
            with entered(follower):
                yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._remove()

    def _install(self) -> None:
        start: Any = threading.Thread.start
        submit: Any = ThreadPoolExecutor.submit
        self._start, self._submit = start, submit

        @functools.wraps(start)
        def starting(thread: threading.Thread) -> None:
            # Workers of pools are watched call by call, because they live on.
            if getattr(thread, "_target", None) is not getattr(pool_threads, "_worker", threading):
                thread.run = _carry(thread.run)  # type: ignore[method-assign]
            start(thread)

        @functools.wraps(submit)
        def submitting(pool: ThreadPoolExecutor, fn: Call, /, *args: Any, **kwargs: Any) -> Any:
            return submit(pool, _carry(fn), *args, **kwargs)

        self._starting, self._submitting = starting, submitting
        _set(threading.Thread, "start", starting)
        _set(ThreadPoolExecutor, "submit", submitting)

    def _remove(self) -> None:
        # Patches made over ours meanwhile stay; without an observer ours only passes on.
        if threading.Thread.start is self._starting:
            _set(threading.Thread, "start", self._start)
        if cast(Any, ThreadPoolExecutor.submit) is self._submitting:
            _set(ThreadPoolExecutor, "submit", self._submit)


def _set(owner: type, name: str, value: Call) -> None:
    setattr(owner, name, value)


threads: Final = _Threads()


@contextlib.contextmanager
def entered(follower: Follower) -> Iterator[None]:
    """Lets ``follower`` see the running thread inside the block."""
    before = here.followers
    here.followers = (*before, follower)
    try:
        with follower.thread():
            yield
    finally:
        here.followers = before


def _carry(call: Call) -> Call:
    """Returns ``call``, watched like the running thread."""
    followers, aside = here.followers, here.aside
    if not any(one.active for one in followers):
        return call

    @functools.wraps(call)
    def carried(*args: Any, **kwargs: Any) -> Any:
        with contextlib.ExitStack() as stack:
            before, here.aside = here.aside, aside
            for one in followers:
                if one.active and one not in here.followers:
                    stack.enter_context(entered(one))
            try:
                return call(*args, **kwargs)
            finally:
                here.aside = before

    return carried
