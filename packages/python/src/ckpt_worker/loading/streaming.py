"""One ``load_weights`` call for a whole update, although its tensors arrive in buckets.

Some models join tensors that belong together into one parameter, and look for them only within one call. Loaded bucket by
bucket, tensors in different buckets would be silently lost. So the model's loader runs in a separate thread, over all buckets,
and receives copies: it may keep a tensor until its partner arrives.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import torch

from ..errors import AbortedError

Named = tuple[str, torch.Tensor]
#: Maximum wait, in seconds, between two checks that the loader's thread is alive.
_SLICE: Final = 0.5


class StreamingLoad:
    """Feeds buckets to one running call of a model's loader."""

    def __init__(self, load_weights: Callable[[Iterator[Named]], object], device: torch.device) -> None:
        self._load_weights, self._device = load_weights, device
        self._turn = threading.Condition()
        self._bucket: list[Named] | None = None
        self._ending = self._aborted = self._done = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def load(self, tensors: Iterable[Named]) -> None:
        """Hands over one bucket; returns when the loader has taken all of it and its tensors are copied.

        :raises Exception: the loader's error.
        """
        bucket = [(name, tensor.clone()) for name, tensor in tensors]
        _settle(self._device)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="ckpt-load", daemon=True)
            self._thread.start()
        with self._turn:
            self._bucket = bucket
            self._turn.notify_all()
            while self._bucket is not None and not self._done:
                self._turn.wait(_SLICE)
        self._raise()

    def finish(self) -> None:
        """Ends the loader's call after the last bucket. Raises the loader's error."""
        self._end()
        self._raise()

    def abandon(self) -> None:
        """Aborts the loader's call. Does nothing after its end."""
        self._aborted = True
        self._end()

    def _end(self) -> None:
        with self._turn:
            self._ending = True
            self._turn.notify_all()
        if self._thread is not None:
            self._thread.join()
            _settle(self._device)

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self) -> None:
        try:
            # Both are settings of a thread.
            with torch.no_grad(), _on(self._device):
                self._load_weights(self._feed())
        except BaseException as error:
            if not self._aborted:
                self._error = error
        finally:
            with self._turn:
                self._done = True
                self._bucket = None
                self._turn.notify_all()

    def _feed(self) -> Iterator[Named]:
        while True:
            with self._turn:
                while self._bucket is None and not self._ending:
                    self._turn.wait(_SLICE)
                bucket = self._bucket
                if self._aborted:
                    raise AbortedError("the update was abandoned")
                if bucket is None:
                    return
            while bucket:
                yield bucket.pop(0)
            with self._turn:
                self._bucket = None
                self._turn.notify_all()


def _on(device: torch.device) -> contextlib.AbstractContextManager[object]:
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _settle(device: torch.device) -> None:
    # Loaders use their own threads, and with them streams.
    if device.type == "cuda":
        torch.cuda.synchronize(device)
