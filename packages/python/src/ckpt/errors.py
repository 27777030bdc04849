"""Exceptions of this package. ``code`` is stable; docs/architecture.md, "Errors", says what each group means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

Scope = Literal["operation", "engine", "rank", "checkpoint"]

#: Every code, with what has to be rebuilt after it and whether the same call may succeed when repeated.
CODES: Final[Mapping[str, tuple[Scope, bool]]] = {
    "INVALID_ARGUMENT": ("operation", False),
    "INVALID_STATE": ("operation", False),
    "ABORTED": ("operation", True),
    "TIMEOUT": ("operation", True),
    "UPDATE_FAILED": ("operation", True),
    "UNSUPPORTED": ("operation", False),
    "OUT_OF_MEMORY": ("operation", True),
    "NATIVE_FAILURE": ("operation", False),
    "PLAN_INFEASIBLE": ("operation", False),
    "MEMORY_REFUSED": ("operation", False),
    "ENGINE_UNREACHABLE": ("engine", True),
    "ENGINE_PROTOCOL": ("engine", False),
    "ENGINE_UNAUTHORIZED": ("engine", False),
    "ENGINE_WORKER_ERROR": ("engine", True),
    "ENGINE_WORKER_LOST": ("engine", True),
    "ROUTES_STALE": ("engine", True),
    "ENGINE_BUSY": ("engine", True),
    "DIGEST_MISMATCH": ("engine", True),
    "RANK_LOST": ("rank", True),
    "RANK_MISSING": ("rank", True),
    "RENDEZVOUS_PROTOCOL": ("rank", False),
    "RENDEZVOUS_REJECTED": ("rank", False),
    "ADDON_UNAVAILABLE": ("rank", False),
    "PEER_LOST": ("rank", True),
    "PEER_UNAUTHORIZED": ("rank", False),
    "PEER_PROTOCOL": ("rank", False),
    "CHECKPOINT_UNKNOWN": ("checkpoint", False),
    "CHECKPOINT_EXISTS": ("checkpoint", False),
    "CHECKPOINT_IN_USE": ("checkpoint", True),
    "CHECKPOINT_MALFORMED": ("checkpoint", False),
    "CHECKPOINT_UNREADABLE": ("checkpoint", True),
    "CHECKPOINT_CHANGED": ("checkpoint", True),
    "METAS_MALFORMED": ("checkpoint", False),
    "METAS_STALE": ("checkpoint", True),
    "MEMORY_CHANGED": ("checkpoint", True),
    "REGION_REFUSED": ("checkpoint", False),
}


class CkptError(Exception):
    """Base of every exception that this package raises on purpose.

    The exception that caused it, if any, is its ``cause`` (and ``__cause__``, which tracebacks show).
    """

    def __init__(self, code: str, message: str, fields: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        #: Stable name of the failure, for example ``CHECKPOINT_UNKNOWN``.
        self.code = code
        #: Place of the failure: ``rank``, ``tensor``, ``file``, ``peer``, ``field``, ``dirty`` and others.
        self.fields: Mapping[str, Any] = dict(fields or {})

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self.code, self.message, dict(self.fields), self.__cause__)

    @property
    def message(self) -> str:
        """The text without the code."""
        return str(self.args[0])

    @property
    def cause(self) -> BaseException | None:
        """The exception that caused this one."""
        return self.__cause__

    @cause.setter
    def cause(self, value: BaseException | None) -> None:
        # Ray derives a class from this one for a remote failure, and sets it to the exception of the remote process.
        self.__cause__ = value

    @property
    def scope(self) -> Scope:
        """What has to be rebuilt: only the operation, an engine worker, a rank, or the registered checkpoint."""
        return CODES.get(self.code, CODES["UPDATE_FAILED"])[0]

    @property
    def retryable(self) -> bool:
        """True if the same call may succeed when repeated."""
        return CODES.get(self.code, CODES["UPDATE_FAILED"])[1]


class OperationError(CkptError):
    """The call failed; nothing has to be rebuilt. Correct its arguments, or call again."""


class EngineError(CkptError):
    """An engine worker failed: update again, or restart it."""


class RankError(CkptError):
    """A rank failed: create its :class:`ParameterServer` again."""


class CheckpointError(CkptError):
    """The checkpoint cannot be used: register it again."""


_CLASSES: Final[Mapping[Scope, type[CkptError]]] = {
    "operation": OperationError,
    "engine": EngineError,
    "rank": RankError,
    "checkpoint": CheckpointError,
}


def error(code: str, message: str, **fields: Any) -> CkptError:
    """Returns an exception of the class that ``code`` belongs to."""
    return _CLASSES[CODES.get(code, CODES["UPDATE_FAILED"])[0]](code, message, fields)


def deserialize(data: Mapping[str, Any]) -> CkptError:
    """Returns the exception that a rank program described, with its causes."""
    made = error(str(data.get("code")), str(data.get("message")), **(data.get("fields") or {}))
    cause = data.get("cause")
    if isinstance(cause, Mapping):
        made.__cause__ = deserialize(cause)
    return made


def _unpickled(code: str, message: str, fields: dict[str, Any], cause: BaseException | None) -> CkptError:
    made = error(code, message, **fields)
    made.__cause__ = cause
    return made
