"""SGLang's own weight-update path, from the tokenizer manager's request down to checkpoint-engine's worker function, over HTTP.

SGLang's own: `TokenizerControlMixin.update_weights_from_ipc` (locks, version), `SchedulerWeightUpdaterManager.update_weights_from_ipc`
(runners, cache flush, barrier), `WeightUpdater.update_weights_from_ipc`, `SGLangCheckpointEngineWorkerExtensionImpl` with its post hook,
its parameter loader, and its request types. Ours: the HTTP routes, the model (plain parameters of the files' names), what a scheduler
would do between those (`_Scheduler`), and, without a GPU, stand_in_cuda.py (packages/testing/src/compat) below them.

Arguments: `--control PATH` (unix socket), `--files PATH…` (names and shapes of the model), `--device-uuid UUID`, `--fail-at-load N`,
`--post-hook-fails`, `--deaf` (says it took the update without taking it).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[4] / "packages/testing/src/compat"))

import absent
import stand_in_cuda
import torch

absent.install()

import fastapi
import uvicorn
from fastapi.responses import JSONResponse, PlainTextResponse
from safetensors import safe_open
from sglang.srt.checkpoint_engine import checkpoint_engine_worker
from sglang.srt.managers import tokenizer_control_mixin
from sglang.srt.managers.io_struct import PauseGenerationReqInput, UpdateWeightsFromIPCReqInput
from sglang.srt.managers.scheduler_components import weight_updater as scheduler_updater
from sglang.srt.model_executor.model_runner_components import weight_updater as runner_updater
from sglang.srt.model_loader.weight_utils import default_weight_loader

# After SGLang has looked what platform this is.
stand_in_cuda.install()


class Model(torch.nn.Module):
    """Parameters by the checkpoint's names, filled by SGLang's own default loader."""

    def __init__(self, files: list[str], fail_at: int | None, post_hook_fails: bool) -> None:
        super().__init__()
        self.held: dict[str, torch.nn.Parameter] = {}
        self.fail_at, self.loads = fail_at, 0
        for path in files:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():
                    empty = torch.zeros_like(file.get_tensor(name))
                    self.held[name] = torch.nn.Parameter(empty, requires_grad=False)
        if post_hook_fails:
            self.post_load_weights = self._fail

    def load_weights(self, weights: list[tuple[str, torch.Tensor]]) -> None:
        """What a model of SGLang does with what the worker yields."""
        self.loads += 1
        if self.fail_at == self.loads:
            self.fail_at = None
            raise ValueError(f"injected failure in load {self.loads}")
        for name, tensor in weights:
            default_weight_loader(self.held[name], tensor)

    def _fail(self) -> None:
        raise ValueError("injected failure of the post hook")


class Tokenizer(tokenizer_control_mixin.TokenizerControlMixin):
    """What SGLang's tokenizer manager brings to an update; the scheduler's process is a thread here."""

    def __init__(self, manager: Any, deaf: bool) -> None:
        self._manager, self._deaf = manager, deaf
        self.weight_version = "default"
        self.is_pause = False
        self.is_pause_cond = asyncio.Condition()
        self.model_update_lock = SimpleNamespace(writer_lock=asyncio.Lock())
        self.mm_processor = None

    def auto_create_handle_loop(self) -> None:
        pass

    async def update_weights_from_ipc_communicator(self, request: UpdateWeightsFromIPCReqInput) -> list[Any]:
        if self._deaf:
            return [SimpleNamespace(success=True, message="Succeeded to update model weights.")]
        return [await asyncio.to_thread(self._manager.update_weights_from_ipc, request)]

    def _update_weight_version_if_provided(self, version: str | None) -> None:
        if version is not None:
            self.weight_version = version


class _Scheduler:
    def __init__(self) -> None:
        self.flushed = 0

    def record_weight_version_change(self, new_version: str | None) -> None:
        pass

    def flush_cache(self, empty_cache: bool = False) -> bool:
        self.flushed += 1
        return True


def build(options: argparse.Namespace) -> tuple[fastapi.FastAPI, Tokenizer]:
    """One tensor-parallel rank, its own group."""
    store = Path(tempfile.mkdtemp()) / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    parallel = SimpleNamespace(dp_size=1, tp_group=SimpleNamespace(cpu_group=torch.distributed.group.WORLD))
    # What SGLang keeps as the running server's configuration.
    for module in (tokenizer_control_mixin, scheduler_updater, runner_updater):
        setattr(module, "get_parallel", lambda: parallel)
    setattr(runner_updater, "get_model", lambda: SimpleNamespace(weight_cache_mode="off"))
    # The device: on a GPU these ask torch.
    setattr(checkpoint_engine_worker, "get_device", lambda: "cpu")
    setattr(checkpoint_engine_worker, "get_device_module", lambda: SimpleNamespace(current_device=lambda: 0))
    platform = SimpleNamespace(get_device_uuid=lambda index: options.device_uuid.removeprefix("GPU-"))
    setattr(checkpoint_engine_worker, "current_platform", platform)

    model = Model(options.files, options.fail_at_load, options.post_hook_fails)
    runner = SimpleNamespace(model=model)
    runner.weight_updater = runner_updater.WeightUpdater(
        tp_rank=0,
        device="cpu",
        gpu_id=0,
        model_config=None,
        custom_weight_loaders={},
        get_model=lambda: model,
        update_model_fields=lambda *_: None,
        recapture_cuda_graph=lambda: None,
        get_model_runner=lambda: runner,
    )
    scheduler = _Scheduler()
    manager = scheduler_updater.SchedulerWeightUpdaterManager(
        tp_worker=SimpleNamespace(weight_update_runners=lambda: [("target", runner)]),
        draft_worker=None,
        memory_saver_adapter=None,
        flush_cache=scheduler.flush_cache,
        is_fully_idle=lambda: True,
        scheduler=scheduler,
    )
    tokenizer = Tokenizer(manager, options.deaf)
    return routes(tokenizer, model, scheduler), tokenizer


def routes(tokenizer: Tokenizer, model: Model, scheduler: _Scheduler) -> fastapi.FastAPI:
    """The routes of SGLang's server that an update uses, with its bodies and answers, and `/verify`."""
    app = fastapi.FastAPI()

    @app.get("/ping")
    async def ping() -> fastapi.Response:
        return fastapi.Response(status_code=200)

    @app.get("/model_info")
    async def model_info() -> Any:
        return {"weight_version": tokenizer.weight_version, "is_generation": True}

    @app.post("/pause_generation")
    async def pause(request: fastapi.Request) -> Any:
        PauseGenerationReqInput(**await request.json())
        tokenizer.is_pause = True
        return {"message": "Generation paused successfully.", "status": "ok"}

    @app.post("/continue_generation")
    async def resume() -> Any:
        tokenizer.is_pause = False
        return {"message": "Generation continued successfully.", "status": "ok"}

    @app.post("/flush_cache")
    async def flush() -> Any:
        scheduler.flush_cache()
        return PlainTextResponse("Cache flushed.\n")

    @app.post("/update_weights_from_ipc")
    async def update(request: fastapi.Request) -> Any:
        wanted = UpdateWeightsFromIPCReqInput(**await request.json())
        success, message = await tokenizer.update_weights_from_ipc(wanted, request)
        return JSONResponse({"success": success, "message": message}, 200 if success else 400)

    @app.post("/verify")
    async def verify(request: fastapi.Request) -> Any:
        wrong = []
        for path in (await request.json())["files"]:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():
                    ours, theirs = model.held[name].data, file.get_tensor(name)
                    flat = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (ours, theirs)]
                    if ours.dtype != theirs.dtype or not torch.equal(*flat):
                        wrong.append(name)
        return {
            "verified": not wrong,
            "parameters": len(model.held),
            "mismatches": wrong,
            "paused": tokenizer.is_pause,
            "flushed": scheduler.flushed,
        }

    return app


def main() -> None:
    """Serves until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--control", required=True)
    parser.add_argument("--files", nargs="+", required=True)
    parser.add_argument("--device-uuid", required=True)
    parser.add_argument("--fail-at-load", type=int)
    parser.add_argument("--post-hook-fails", action="store_true")
    parser.add_argument("--deaf", action="store_true")
    app, _ = build(parser.parse_args())
    os.umask(0o177)
    uvicorn.run(app, uds=parser.parse_args().control, log_level="warning")


if __name__ == "__main__":
    main()
