from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckpt_worker.errors import ProtocolError
from ckpt_worker.loading.torch_dtypes import DTYPE_NAMES, TORCH_DTYPES, from_bytes, torch_dtype
from ckpt_worker.protocol.dtypes import DTYPE_BITS, packed_shape, tensor_bytes
from ckpt_worker.protocol.messages import (
    Abort,
    Attach,
    Bucket,
    Commit,
    CudaRing,
    Error,
    ErrorInfo,
    FromRank,
    FromWorker,
    Hello,
    Ok,
    Release,
    ShmRing,
    TensorEntry,
    decode_from_rank,
    decode_from_worker,
    encode,
    sender_of,
)

ENTRY = ["w", "BF16", [2, 3], 256, 12, b"12345678"]
ATTACH: dict[str, Any] = {
    "type": "attach",
    "seq": 1,
    "epoch": 7,
    "token": "t",
    "ring": {"kind": "shm", "name": "ring", "offset": 0, "bytes": 1024},
    "tensors": 1,
    "bytes": 12,
}
BUCKET: dict[str, Any] = {"type": "bucket", "seq": 2, "epoch": 7, "bucket": 0, "tensors": [ENTRY]}


@pytest.mark.parametrize(
    "message",
    [
        Attach(1, 7, "t", ShmRing("ring", 64, 1024), 3, 900),
        Attach(1, 7, "t", CudaRing(b"h" * 64, 0, "GPU-1", 1024), 3, 900),
        Bucket(2, 7, 0, [TensorEntry("w", "BF16", [2, 3], 256, 12, b"12345678"), TensorEntry("s", "F32", [], 0, 4)]),
        Release(3, 7),
        Commit(4, 7, "step-42"),
        Abort(5, 7, "why"),
        Error(ErrorInfo("ENGINE_UNAUTHORIZED", "no")),
    ],
)
def test_messages_of_the_rank_survive_the_trip(message: FromRank) -> None:
    assert decode_from_rank(encode(message)) == message


@pytest.mark.parametrize(
    "message", [Hello("t", 1, "e", ""), Ok(1, 2), Ok(1, 2, 0.5), Error(ErrorInfo("T", "m", "tb", "w"), 3, 4)]
)
def test_messages_of_the_worker_survive_the_trip(message: FromWorker) -> None:
    assert decode_from_worker(encode(message)) == message


def test_the_wire_has_the_documented_keys() -> None:
    assert msgspec.msgpack.decode(encode(Ok(1, 2, 0.5))) == {"type": "ok", "seq": 1, "epoch": 2, "reloadMs": 0.5}
    assert msgspec.msgpack.decode(encode(Ok(1, 2))) == {"type": "ok", "seq": 1, "epoch": 2}
    hello = {"type": "hello", "protocol": 3, "token": "t", "pid": 3, "engine": "e", "device": "d"}
    hello |= {"routes": None, "process": None, "rehearses": False}
    assert msgspec.msgpack.decode(encode(Hello("t", 3, "e", "d"))) == hello
    assert msgspec.msgpack.decode(encode(Error(ErrorInfo("T", "m", "tb"), 1, 2))) == {
        "type": "error",
        "seq": 1,
        "epoch": 2,
        "error": {"type": "T", "message": "m", "traceback": "tb"},
    }
    wire = {"kind": "cuda", "handle": b"h" * 64, "offset": 4, "bytes": 8, "deviceUuid": "GPU-1"}
    decoded = decode_from_rank(msgspec.msgpack.encode({**ATTACH, "ring": wire}))
    assert isinstance(decoded, Attach)
    assert decoded.ring == CudaRing(b"h" * 64, 4, "GPU-1", 8)


def test_unknown_keys_are_ignored() -> None:
    assert decode_from_rank(msgspec.msgpack.encode({**ATTACH, "later": [1, {"a": None}]})) == decode_from_rank(
        msgspec.msgpack.encode(ATTACH)
    )


def test_whole_numbers_above_32_bits_may_come_as_floats() -> None:
    big = 5 * 2**30
    entry = ["w", "U8", [float(big)], float(big), float(big), None]
    bucket = decode_from_rank(msgspec.msgpack.encode({**BUCKET, "tensors": [entry]}))
    assert isinstance(bucket, Bucket)
    assert bucket.tensors == [TensorEntry("w", "U8", [big], big, big)]
    assert isinstance(bucket.tensors[0].offset, int)
    attach = decode_from_rank(
        msgspec.msgpack.encode({**ATTACH, "bytes": float(big), "ring": {**ATTACH["ring"], "bytes": float(big)}})
    )
    assert isinstance(attach, Attach)
    assert isinstance(attach.size, int)
    assert attach.ring is not None
    assert isinstance(attach.ring.size, int)


def entry(index: int, value: Any) -> dict[str, Any]:
    return {**BUCKET, "tensors": [[*ENTRY[:index], value, *ENTRY[index + 1 :]]]}


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({**ATTACH, "type": "pickle"}, "pickle"),
        ({key: value for key, value in ATTACH.items() if key != "token"}, "token"),
        ({**ATTACH, "token": 5}, "token"),
        ({**ATTACH, "seq": 0}, "seq"),
        ({**ATTACH, "epoch": -1}, "epoch"),
        ({**ATTACH, "bytes": 1.5}, "bytes"),
        ({**ATTACH, "bytes": 2**60}, "bytes"),
        ({**ATTACH, "ring": {**ATTACH["ring"], "kind": "file"}}, "ring"),
        ({**ATTACH, "ring": {**ATTACH["ring"], "offset": -8}}, "offset"),
        ({**ATTACH, "ring": {"kind": "cuda", "handle": b"short", "offset": 0, "bytes": 1, "deviceUuid": ""}}, "handle"),
        (entry(1, "BF17"), "BF17"),
        ({**BUCKET, "tensors": [["empty", "BF17", [0], 0, 0, None]]}, "BF17"),
        (entry(2, [2, -3]), "tensors"),
        (entry(2, [2, 2.5]), "shape of tensor 'w'"),
        (entry(2, [2, 4]), "needs 16 bytes, not 12"),
        (entry(2, [2**53 - 1] * 64), "tensor 'w'"),
        (entry(3, -1), "tensors"),
        (entry(3, float("nan")), "tensors"),
        (entry(4, 2**63), "tensors"),
        (entry(5, b"123"), "tensors"),
        (entry(5, "12345678"), "tensors"),
        ({**BUCKET, "tensors": [["F4x", "F4", [3], 0, 2, None]]}, "not a whole number of bytes"),
        ({**BUCKET, "tensors": {"a": 1}}, "tensors"),
        ([1, 2], "object"),
    ],
)
def test_malformed_messages_are_refused_by_field(message: Any, field: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode_from_rank(msgspec.msgpack.encode(message))
    assert field in str(caught.value)


FRAMES = {
    "empty": b"",
    "opcode": b"\xc1",
    "cut": b"\x81",
    "rest": b"\x80\x05",
    "deep": b"\x91" * 200_000,
    "deep value": b"\x81\xa1a" + b"\x91" * 200_000,
    "pickle": b"\x80\x04N.",
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES.keys())
def test_frames_that_are_no_message_are_refused(frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_from_rank(frame)
    assert sender_of(frame) == (0, 0)


@given(st.binary(max_size=300))
def test_random_frames_never_do_anything_else(frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_from_rank(frame)
    sender_of(frame)


@given(st.data())
def test_damaged_frames_decode_or_are_refused(draw: st.DataObject) -> None:
    frame = bytearray(msgspec.msgpack.encode(draw.draw(st.sampled_from([ATTACH, BUCKET]))))
    for _ in range(draw.draw(st.integers(1, 4))):
        frame[draw.draw(st.integers(0, len(frame) - 1))] = draw.draw(st.integers(0, 255))
    with contextlib.suppress(ProtocolError):
        decode_from_rank(bytes(frame))


def test_who_sent_a_broken_message_is_still_told() -> None:
    assert sender_of(msgspec.msgpack.encode({"type": "what", "seq": 4, "epoch": 2})) == (4, 2)


def test_every_dtype_of_the_format_has_a_tensor_form() -> None:
    for dtype, bits in DTYPE_BITS.items():
        shape = [3, 8]
        size = tensor_bytes(dtype, shape)
        assert size == 3 * bits
        tensor = from_bytes(torch.arange(size + 1, dtype=torch.uint8)[1:], dtype, shape)  # unaligned on purpose
        assert tensor.reshape(-1).view(torch.uint8).tolist() == list(range(1, size + 1))
        if dtype in TORCH_DTYPES:
            assert list(tensor.shape) == shape
            assert DTYPE_NAMES[torch_dtype(dtype)] == dtype
        else:
            assert list(tensor.shape) == packed_shape(dtype, shape) == [3, bits]
            with pytest.raises(ValueError, match="packed bytes"):
                torch_dtype(dtype)
    assert packed_shape("F6_E2M3", [4, 3]) == [9]
