"""Engines and strategies of an update, as data. The rank program makes the adapters and strategies that they describe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

#: One value, one per rank, or a function of the rank.
ByRank = str | Sequence[str] | Callable[[int], str]


@dataclass(frozen=True)
class Tls:
    """For ``https`` engines; PEM texts."""

    #: Certificate authority to trust instead of the system's.
    ca: str | None = None
    #: The client's own certificate and key.
    cert: str | None = None
    key: str | None = None
    #: Name that the engine's certificate must contain (default: the host of the URL; only vLLM).
    servername: str | None = None


@dataclass(frozen=True)
class Endpoint:
    """Address at which one rank waits for its engine worker."""

    rank: int
    device_uuid: str
    #: ZeroMQ address, ``ipc://…``.
    address: str


@dataclass(frozen=True)
class EngineStart:
    """What an engine's workers need to take one update."""

    #: The rank that starts them.
    rank: int
    #: Of all ranks that take part, ascending.
    endpoints: Sequence[Endpoint]
    #: The run's token, which workers show and require.
    token: str
    #: Longest silence of a rank, in seconds.
    timeout: float


@dataclass(frozen=True)
class Engine:
    """An inference engine; made by :func:`vllm`, :func:`sglang` or :func:`control_engine`."""

    kind: str
    options: Mapping[str, Any]
    #: For an engine that this process calls itself: starts its workers, and returns when they have ended.
    call: Callable[[EngineStart], None] | None = field(default=None, compare=False)

    def describe(self, world_size: int) -> dict[str, Any]:
        """Returns the form that the rank program reads."""
        options = {key: _by_rank(value, world_size) if callable(value) else value for key, value in self.options.items()}
        return {"kind": self.kind, **options}


@dataclass(frozen=True)
class Strategy:
    """How an update moves the bytes; made by :func:`broadcast`, :func:`direct`, :func:`auto` or :func:`p2p`."""

    kind: str
    options: Mapping[str, Any]

    def describe(self) -> dict[str, Any]:
        """Returns the form that the rank program reads."""
        return {"kind": self.kind, **self.options}


def vllm(
    url: ByRank | None = None,
    *,
    socket_path: ByRank | None = None,
    parallel_size: int = 1,
    api_key: str | None = None,
    engine_key: str | Literal[False] | None = None,
    tls: Tls | None = None,
    headers: Mapping[str, str] | None = None,
    pause: Literal["keep", "wait", "abort", False] | None = None,
    reset_prefix_cache: bool | None = None,
    drafter: Literal["auto", "load", "skip"] | None = None,
    complete: bool | None = None,
    via: Literal["extension", "weight-transfer", "checkpoint-engine"] | None = None,
) -> Engine:
    """Describes a running vLLM server. docs/engines.md says how to start it.

    :param url: base URL of the server that this rank's worker belongs to, such as ``http://127.0.0.1:8000``.
    :param socket_path: instead of ``url``, the unix socket that vLLM listens on (its ``--uds``).
    :param parallel_size: workers of one server: tensor x pipeline x data parallel. Its ranks are consecutive.
    :param api_key: vLLM's ``--api-key``. It protects only ``/v1``: see ``engine_key``.
    :param engine_key: key that the workers require (default: ``CKPT_ENGINE_KEY``, the file that ``CKPT_ENGINE_KEY_FILE`` names,
        or a secret of this machine's user). ``False``: the engine runs with ``CKPT_ENGINE_KEY=off``.
    :param headers: additional headers of every request.
    :param pause: handling of requests during the update: ``keep`` (default) freezes them and resumes them with the new weights,
        ``wait`` lets them finish first, ``abort`` ends them, ``False`` does not pause.
    :param reset_prefix_cache: drop the prefix cache of the old weights (default true).
    :param drafter: handling of the speculative drafter (default ``auto``).
    :param complete: true (default) if parameters that the checkpoint lacks are an error.
    :param via: plug-in of vLLM that takes the weights (default ``extension``).
    """
    options = {
        "url": _listed(url),
        "socketPath": _listed(socket_path),
        "parallelSize": parallel_size,
        "apiKey": api_key,
        "engineKey": engine_key,
        "tls": _tls(tls),
        "headers": None if headers is None else dict(headers),
        "pause": pause,
        "resetPrefixCache": reset_prefix_cache,
        "drafter": drafter,
        "complete": complete,
        "via": via,
    }
    return Engine("vllm", without_none(options))


def sglang(
    url: ByRank,
    *,
    socket_path: ByRank | None = None,
    parallel_size: int = 1,
    protocol: Literal["checkpoint-engine", "ckpt"] | None = None,
    api_key: str | None = None,
    engine_key: str | Literal[False] | None = None,
    tls: Tls | None = None,
    pause: Literal["abort", "retract", "in_place", "none"] | None = None,
    flush_cache: bool | None = None,
) -> Engine:
    """Describes a running SGLang server. docs/engines.md says how to start it.

    :param url: base URL of the server, or of each rank's server.
    :param socket_path: unix socket of the server; only the path of ``url`` is used then.
    :param parallel_size: ranks (tensor x pipeline parallel) of one server; they are consecutive.
    :param protocol: ``checkpoint-engine`` (default) with SGLang's stock package, ``ckpt`` if this package is installed in
        SGLang's environment; only the latter compares digests.
    :param api_key: SGLang's ``--api-key`` or ``--admin-api-key``.
    :param engine_key: with the protocol ``ckpt``, as for :func:`vllm`.
    :param pause: method of pausing requests (default ``retract``).
    :param flush_cache: drop the prefix cache of the old weights (default true; not with ``in_place``).
    """
    options = {
        "url": _listed(url),
        "socketPath": _listed(socket_path),
        "parallelSize": parallel_size,
        "protocol": protocol,
        "apiKey": api_key,
        "engineKey": engine_key,
        "tls": _tls(tls),
        "pause": pause,
        "flushCache": flush_cache,
    }
    return Engine("sglang", without_none(options))


def control_engine(socket: ByRank) -> Engine:
    """Describes an engine whose workers are separate processes with control sockets (docs/worker-protocol.md).

    :param socket: path of the unix socket of this rank's worker.
    """
    return Engine("control", {"socket": _listed(socket)})


def broadcast() -> Strategy:
    """Moves every tensor to every rank, through each rank's ring, into its engine worker, and never records its loader."""
    return Strategy("broadcast", {})


def direct(*, required: bool | None = None, check_every: int | None = None) -> Strategy:
    """Writes into the engine's parameters only what each worker needs (docs/direct.md).

    :param required: fail with ``UNSUPPORTED`` instead of staging an update that cannot be direct (default false).
    :param check_every: interval at which the engine's own loader checks a few tensors (default 100; 0: never).
    """
    return Strategy("direct", without_none({"required": required, "checkEvery": check_every}))


def auto() -> Strategy:
    """Direct if that is possible, otherwise replayed or staged; ``how`` of the report says which, and why. The default."""
    return Strategy("auto", {})


def p2p(ranks: Sequence[int], *, keep: bool | None = None) -> Strategy:
    """Updates only the given ranks, which call ``update``; they pull from the host memory of the others.

    :param keep: keep the pulled bytes, registered under the checkpoint's name (default false).
    """
    return Strategy("p2p", without_none({"ranks": list(ranks), "keep": keep}))


def without_none(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options that are not None: the rank program has its own defaults."""
    return {key: value for key, value in options.items() if value is not None}


def _listed(value: ByRank | None) -> Any:
    return value if value is None or isinstance(value, str) or callable(value) else list(value)


def _by_rank(value: Callable[[int], str], world_size: int) -> list[str]:
    return [value(rank) for rank in range(world_size)]


def _tls(tls: Tls | None) -> dict[str, str] | None:
    return None if tls is None else without_none(vars(tls))
