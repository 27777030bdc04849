"""Updates the weights of running LLM inference engines in place, from a Python trainer. See docs/trainers.md.

.. code-block:: python

    from ckpt import ParameterServer, vllm

    engine = vllm("http://127.0.0.1:8000")
    with ParameterServer() as ps:                     # one rank; under torchrun, one per process
        for step in range(3):
            train(model)
            name = f"step-{step}"
            ps.register_checkpoint(name, named_tensors=model.state_dict())
            ps.update(name, engine=engine)            # the engine serves the new weights
            ps.unregister_checkpoint(name)
"""

from .async_parameter_server import AsyncParameterServer
from .choices import Engine, Strategy, Tls, auto, broadcast, control_engine, direct, p2p, sglang, vllm
from .engines import local_engine, requested_engine
from .errors import CheckpointError, CkptError, EngineError, OperationError, RankError
from .gather import gather
from .lora import load_adapter, merged
from .names import rename_tensors
from .parameter_server import ParameterServer
from .reports import Health, Metas, PrepareReport, StageTimes, StepTimes, UpdateReport, WorkerState

__all__ = [
    "AsyncParameterServer",
    "CheckpointError",
    "CkptError",
    "Engine",
    "EngineError",
    "Health",
    "Metas",
    "OperationError",
    "ParameterServer",
    "PrepareReport",
    "RankError",
    "StageTimes",
    "StepTimes",
    "Strategy",
    "Tls",
    "UpdateReport",
    "WorkerState",
    "auto",
    "broadcast",
    "control_engine",
    "direct",
    "gather",
    "load_adapter",
    "local_engine",
    "merged",
    "p2p",
    "rename_tensors",
    "requested_engine",
    "sglang",
    "vllm",
]
