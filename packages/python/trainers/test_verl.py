"""verl's own manager, with Ray on the CPU, drives the backend between actors and receivers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from verl.checkpoint_engine import CheckpointEngineManager
from verl.single_controller.ray import RayClassWithInitArgs, RayResourcePool, RayWorkerGroup
from verl.workers.config import CheckpointEngineConfig
from verl_parts import Actor, Replica, Rollout, digests, weights

#: Silence in seconds after which a rank counts as lost.
HEARTBEAT = 5.0


@pytest.fixture(scope="module")
def cluster(rank_program: Path) -> Iterator[None]:
    environment = {"CKPT_BUNDLE": str(rank_program), "PYTHONPATH": os.environ["PYTHONPATH"], "OMP_NUM_THREADS": "1"}
    ray.init(num_cpus=8, include_dashboard=False, runtime_env={"env_vars": environment})
    yield
    ray.shutdown()


def config() -> Any:
    return CheckpointEngineConfig(
        backend="ckpt",
        update_weights_bucket_megabytes=1,
        custom_backend_module="ckpt.integrations.verl",
        engine_kwargs={"ckpt": {"device": "cpu", "timeout": 30, "heartbeat": 1, "heartbeat_timeout": HEARTBEAT}},
    )


def group(kind: Any, count: int, *arguments: Any) -> Any:
    pool = RayResourcePool(process_on_nodes=[count], use_gpu=False, max_colocate_count=1)
    made = RayClassWithInitArgs(cls=ray.remote(kind), **arguments[0])
    return RayWorkerGroup(resource_pool=pool, ray_cls_with_init=made, device_name="cpu")


@pytest.mark.usefixtures("cluster")
def test_its_manager_updates_two_receivers_three_times_and_a_killed_one_is_an_exception() -> None:
    actors = group(Actor, 2, {"config": config()})
    rollouts = group(Rollout, 2, {"config": SimpleNamespace(checkpoint_engine=config(), name="vllm", mode="async")})
    replicas = [Replica([worker]) for worker in rollouts.workers]
    manager = CheckpointEngineManager(config(), actors, replicas)
    for step in (1, 2, 3):
        metrics = manager.update_weights(global_steps=step)
        assert metrics["ckpt/bytes"] == sum(tensor.nbytes for tensor in weights(step).values())
        assert rollouts.digests() == [digests(weights(step))] * 2
        # Every actor has made every tensor: making them is a collective.
        assert actors.tensors_made() == [step * len(weights(step))] * 2
    assert replicas[0].calls == 3 * ["abort_all_requests", "release_kv_cache", "resume_kv_cache", "resume_generation"]

    # Elastic: one replica fewer, then again two.
    manager.remove_replicas(replicas[1:])
    manager.update_weights(global_steps=4)
    assert rollouts.digests() == [digests(weights(4)), digests(weights(3))]
    manager.add_replicas(replicas[1:])
    manager.update_weights(global_steps=5)
    assert rollouts.digests() == [digests(weights(5))] * 2

    rollouts.die_at(6, 1)
    started = time.monotonic()
    with pytest.raises(ray.exceptions.RayError) as error:
        manager.update_weights(global_steps=6)
    assert time.monotonic() - started < 30  # a hang
    print(type(error.value).__name__, round(time.monotonic() - started, 1), "s")

    # The actor is told, too, and the replica that lives can be updated.
    manager.remove_replicas(replicas[1:])
    manager.update_weights(global_steps=7)
    assert ray.get(replicas[0].workers[0].digests.remote()) == digests(weights(7))
