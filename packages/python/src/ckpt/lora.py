"""LoRA adapters of PEFT: merged into the weights that an engine gets, or handed to an engine alone."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from .errors import error

if TYPE_CHECKING:
    import torch

#: Parts of the names of an adapter's own tensors.
_ADAPTER_PARTS: Final = ("lora_", "modules_to_save.", "original_module.")


def merged(model: torch.nn.Module, adapter: str = "default") -> dict[str, torch.Tensor]:
    """Returns a PEFT model's state with an adapter merged into it, under the names of the base model.

    The model itself stays as it is, and only adapted weights take memory. For :meth:`ParameterServer.register_checkpoint`.

    :raises OperationError: ``UNSUPPORTED`` naming the module, for adapters that are more than a sum (DoRA).
    """
    import torch

    result: dict[str, torch.Tensor] = {}
    layers = {f"{name}.": module for name, module in model.named_modules() if hasattr(module, "base_layer")}
    for key, value in model.state_dict().items():
        if ".modules_to_save." in key:
            head, _, tail = key.partition(".modules_to_save.")
            if tail.startswith(f"{adapter}."):
                result[_base_name(f"{head}.{tail[len(adapter) + 1 :]}")] = value
            continue
        if any(part in key for part in _ADAPTER_PARTS):
            continue
        head, found, tail = key.rpartition("base_layer.")
        layer = layers.get(head) if found else None
        if layer is not None and tail == "weight":
            with torch.no_grad():
                value = _with_adapter(head[:-1], layer, value, adapter)
        result[_base_name(f"{head}{tail}")] = value
    return result


def load_adapter(
    url: str,
    model: Any,
    *,
    name: str = "ckpt",
    engine: Literal["vllm", "sglang"] = "vllm",
    adapter: str = "default",
    directory: str | os.PathLike[str] | None = None,
    api_key: str | None = None,
    timeout: float = 120,
) -> None:
    """Hands only the adapter of a PEFT model to an engine, which loads it beside its weights, or in place of its last version.

    The engine needs LoRA enabled: vLLM ``--enable-lora`` and ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=1``, SGLang ``--enable-lora``.
    Requests select it by ``name``.

    :param directory: directory of which the engine reads a subdirectory for the time of the call (default: the system's for
        temporary files); on a different machine, one that both share.
    :raises EngineError: ``ENGINE_UNREACHABLE``, or ``ENGINE_PROTOCOL`` with the engine's answer.
    """
    where = tempfile.mkdtemp(prefix="ckpt-adapter-", dir=directory)
    try:
        model.save_pretrained(where, selected_adapters=[adapter], safe_serialization=True)
        # PEFT puts adapters with other names than "default" in a subdirectory.
        path = where if Path(where, "adapter_config.json").exists() else os.path.join(where, adapter)
        if engine == "vllm":
            _post(f"{url}/v1/load_lora_adapter", {"lora_name": name, "lora_path": path, "load_inplace": True}, api_key, timeout)
        else:
            # SGLang refuses a name that it has.
            _post(f"{url}/unload_lora_adapter", {"lora_name": name}, api_key, timeout, required=False)
            _post(f"{url}/load_lora_adapter", {"lora_name": name, "lora_path": path}, api_key, timeout)
    finally:
        shutil.rmtree(where, ignore_errors=True)


def _with_adapter(name: str, layer: Any, weight: torch.Tensor, adapter: str) -> torch.Tensor:
    if adapter not in getattr(layer, "active_adapters", []) or adapter in getattr(layer, "merged_adapters", []):
        return weight
    if getattr(layer, "use_dora", {}).get(adapter) or not hasattr(layer, "get_delta_weight"):
        text = f"{name}: this kind of adapter is not a sum of two weights: merge it with PEFT's own merge_adapter()"
        raise error("UNSUPPORTED", text, tensor=f"{name}.weight")
    return weight + layer.get_delta_weight(adapter).to(weight)  # type: ignore[no-any-return]


def _base_name(key: str) -> str:
    return key.removeprefix("base_model.model.")


def _post(url: str, body: dict[str, Any], api_key: str | None, timeout: float, *, required: bool = True) -> None:
    headers = {"content-type": "application/json"} | ({} if api_key is None else {"authorization": f"Bearer {api_key}"})
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=timeout):
            return
    except urllib.error.HTTPError as reason:
        if not required:
            return
        answer = reason.read(2000).decode(errors="replace").strip()
        raise error("ENGINE_PROTOCOL", f"POST {url} answered {reason.code}: {answer}", peer=url, status=reason.code) from reason
    except OSError as reason:
        raise error("ENGINE_UNREACHABLE", f"POST {url}: {reason}", peer=url) from reason
