"""A client of checkpoint-engine's HTTP API as its users write one: a thread a rank, the original's bodies, nothing of ours.

Argument: JSON with `name`, `apis` (unix socket of each rank's API), `files` (each rank's), and the `update` body of rank 0, which calls
the engine; the others' names no engine. Prints the statuses of every call as JSON, one list a rank.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx


def rank_calls(rank: int, job: dict[str, Any]) -> list[int]:
    """All calls on one rank, in order."""
    base = f"http://localhost/v1/checkpoints/{job['name']}"
    statuses = []
    with httpx.Client(transport=httpx.HTTPTransport(uds=job["apis"][rank]), timeout=120) as client:

        def note(response: httpx.Response) -> None:
            statuses.append(response.status_code)
            if job.get("strict", True):
                response.raise_for_status()

        note(client.get("http://localhost/v1/healthz"))
        note(client.post(f"{base}/files", json={"files": job["files"][rank]}))
        note(client.post(f"{base}/gather-metas"))
        body = job["update"] if rank == 0 else {"ranks": [], "timeout": job["update"]["timeout"]}
        note(client.post(f"{base}/update", json=body))
        note(client.delete(base))
    return statuses


def main() -> None:
    """Runs every rank's calls beside the others'."""
    job = json.loads(sys.argv[1])
    ranks = range(len(job["apis"]))
    with ThreadPoolExecutor(len(ranks)) as pool:
        print(json.dumps(list(pool.map(lambda rank: rank_calls(rank, job), ranks))))


if __name__ == "__main__":
    main()
