"""What the calls return."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class Metas(msgspec.Struct, frozen=True):
    """What all ranks hold of a checkpoint."""

    tensors: int
    #: Size of all tensors of all ranks, in bytes.
    bytes: int
    #: Number of ranks.
    ranks: int
    #: Digest of the whole; it changes when a rank registers again.
    digest: str


class StepTimes(msgspec.Struct, frozen=True, rename="camel"):
    """Steps of an update, in milliseconds; they run one after another."""

    begin_ms: float
    plan_ms: float
    attach_ms: float
    pipeline_ms: float
    commit_ms: float


class StageTimes(msgspec.Struct, frozen=True, rename="camel"):
    """Times of this rank's part of an update, in milliseconds. Stages overlap."""

    h2d_ms: float
    broadcast_ms: float
    reload_ms: float
    #: Time in which neither H2D nor broadcast could work.
    idle_ms: float


class UpdateReport(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Result of an update on this rank."""

    checkpoint: str
    #: Version that the engine serves now.
    version: str
    epoch: int
    rank: int
    #: Strategy that finally moved the bytes: a direct update may have been staged.
    strategy: str
    #: How the bytes reached the engine workers, and why not directly, in one line.
    how: str
    mode: str
    mode_reason: str
    #: Size of the checkpoint's tensors, in bytes.
    bytes: int
    tensors: int
    buckets: int
    ring_bytes: int
    bucket_bytes: int
    #: Bytes that passed through this rank's copy engines, with padding.
    h2d_bytes: int
    broadcast_bytes: int
    #: Extent of the verification; only ``bytes`` means that the serving parameters were compared.
    verified: Literal["bytes", "sources", "none"]
    #: Comparisons made, and the reason for not making more.
    verification: dict[str, Any]
    #: Digest of the applied metas.
    digest: str
    total_ms: float
    #: Wall clock at the start, in microseconds since 1970.
    started_us: float
    steps: StepTimes
    stages: StageTimes
    #: Number of attempts (``retry``).
    attempts: int = 1
    #: Details of direct updates (docs/direct.md).
    direct: dict[str, Any] | None = None
    #: Order in time of H2D and broadcasts, if there was a choice.
    order: dict[str, Any] | None = None
    #: Bytes pulled from other ranks, in p2p updates.
    pull: dict[str, Any] | None = None
    #: Tensors and bytes that a previous attempt had already transferred.
    kept: dict[str, Any] | None = None


class PrepareReport(msgspec.Struct, frozen=True):
    """What :meth:`ParameterServer.prepare` did."""

    #: True if everything is ready that an update makes before bytes move.
    prepared: bool
    #: True if it had been before: no engine was called.
    kept: bool
    milliseconds: float
    #: Reason why it is not prepared. The update is possible all the same.
    reason: str | None = None


class WorkerState(msgspec.Struct, frozen=True):
    """Known state of one engine worker."""

    engine: str
    rank: int
    version: str | None = None
    #: True if the worker may hold parts of a failed update; the next update repairs it.
    dirty: bool = False


class Health(msgspec.Struct, frozen=True, rename="camel"):
    """Readiness of a rank for an update."""

    rank: int
    world_size: int
    state: str
    #: Reasons for not being ready.
    reasons: list[str]
    #: Ranks whose engine workers need an update.
    dirty: list[int]


class Created(msgspec.Struct, frozen=True, rename="camel"):
    """A rank that has joined."""

    rank: int
    world_size: int
    #: ``host`` or ``cuda``.
    device: str
    device_uuid: str
