from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from ckpt_worker import PeerLostError, ProtocolError
from ckpt_worker.protocol.engine_call import check_listening, endpoint_for, parse_call
from ckpt_worker.protocol.engine_key import KEY_VARIABLE

KEY = "a key of this test"

CALL: dict[str, Any] = {
    "endpoints": [
        {"rank": 8, "deviceUuid": "GPU-b", "address": "ipc:///run/8.sock"},
        {"rank": 9, "deviceUuid": "GPU-a", "address": "ipc:///run/9.sock"},
    ],
    "token": "secret",
    "timeoutMs": 2500,
    "key": KEY,
}


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)


def test_a_worker_finds_its_rank_by_its_gpu_and_without_one_by_its_place() -> None:
    call = parse_call(CALL)
    assert endpoint_for(call, 0, "GPU-a").rank == 9
    assert endpoint_for(call, 0, "").rank == 8
    assert endpoint_for(call, 1, "").rank == 9
    with pytest.raises(ProtocolError, match="worker 1 is on GPU-c, but 0 of the ranks are on it: GPU-b, GPU-a"):
        endpoint_for(call, 1, "GPU-c")
    with pytest.raises(ProtocolError, match="worker 2 has no rank: the call has 2 endpoints"):
        endpoint_for(call, 2, "")


def test_two_ranks_on_one_gpu_are_refused() -> None:
    twice = [{**endpoint, "deviceUuid": "GPU-a"} for endpoint in CALL["endpoints"]]
    with pytest.raises(ProtocolError, match="2 of the ranks are"):
        endpoint_for(parse_call({**CALL, "endpoints": twice}), 0, "GPU-a")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"endpoints": []}, "endpoints"),
        ({"endpoints": [{"rank": 0}]}, "deviceUuid"),
        ({"token": 1}, "token"),
        ({"timeoutMs": 0}, "timeoutMs"),
        ({"drafter": "perhaps"}, "drafter"),
    ],
)
def test_a_malformed_call_is_refused_by_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ProtocolError, match=field):
        parse_call({**CALL, **change})


def test_a_rank_that_is_gone_is_noticed_before_anything_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "rank.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen()
        check_listening(f"ipc://{path}")
    with pytest.raises(PeerLostError, match="no rank waits"):
        check_listening(f"ipc://{path}")
    with pytest.raises(PeerLostError, match="no rank waits"):
        check_listening(f"ipc://{tmp_path}/never.sock")
