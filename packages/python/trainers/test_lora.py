"""PEFT's adapters: merged on the fly, or alone in a directory that an engine reads."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from ckpt import CkptError, load_adapter, merged


def model(**options: Any) -> PeftModel:
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=32, num_key_value_heads=1, **sizes))
    adapted = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], **options))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    return adapted


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"modules_to_save": ["lm_head"]}])
def test_a_merged_state_is_that_of_the_merged_model_and_the_model_stays(options: dict[str, Any]) -> None:
    adapted = model(**options)
    before = {name: tensor.clone() for name, tensor in adapted.state_dict().items()}
    found = merged(adapted)
    assert all(torch.equal(before[name], tensor) for name, tensor in adapted.state_dict().items())
    expected = adapted.merge_and_unload().state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_an_adapter_that_is_no_sum_is_refused_by_name() -> None:
    with pytest.raises(CkptError, match=r"q_proj: this kind of adapter is not a sum") as error:
        merged(model(use_dora=True))
    assert error.value.code == "UNSUPPORTED"


class Engine(HTTPServer):
    """Notes the adapters that it is told to load, as vLLM and SGLang are."""

    calls: list[tuple[str, dict[str, Any], dict[str, torch.Tensor]]]
    status = 200


@pytest.fixture
def engine() -> Iterator[Engine]:
    class Handler(BaseHTTPRequestHandler):
        server: Engine

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            read = load_file(Path(body["lora_path"], "adapter_model.safetensors")) if "lora_path" in body else {}
            self.server.calls.append((self.path, body, read))
            self.send_response(self.server.status)
            self.end_headers()
            self.wfile.write(b"no room")

        def log_message(self, format: str, *args: Any) -> None: ...

    server = Engine(("127.0.0.1", 0), Handler)
    server.calls = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_adapter_alone_is_loaded_by_the_engine(engine: Engine) -> None:
    adapted = model()
    url = f"http://127.0.0.1:{engine.server_port}"
    load_adapter(url, adapted, name="policy")
    ((path, body, read),) = engine.calls
    assert (path, body["lora_name"], body["load_inplace"]) == ("/v1/load_lora_adapter", "policy", True)
    assert len(read) == 8
    assert not Path(body["lora_path"]).exists()
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_B"
    assert torch.equal(read[f"{key}.weight"], adapted.state_dict()[f"{key}.default.weight"])
    load_adapter(url, adapted, engine="sglang")
    assert [call[0] for call in engine.calls[1:]] == ["/unload_lora_adapter", "/load_lora_adapter"]
    engine.status = 500
    with pytest.raises(CkptError, match="answered 500: no room") as error:
        load_adapter(url, adapted)
    assert error.value.code == "ENGINE_PROTOCOL"
    with pytest.raises(CkptError) as error:
        load_adapter("http://127.0.0.1:1", adapted)
    assert error.value.code == "ENGINE_UNREACHABLE"
