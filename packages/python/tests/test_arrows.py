"""The contracts of import-linter in pyproject.toml hold, and detect an import in the wrong direction."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HOME = Path(__file__).parents[1]
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def lint(home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache"],
        cwd=home,
        env=os.environ | {"PYTHONPATH": str(home / "src")},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(HOME / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(HOME / "pyproject.toml", tmp_path)
    return tmp_path


def test_they_hold(copy: Path) -> None:
    done = lint(copy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Imports go down KEPT" in done.stdout


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("loading/bucket.py", "from ..recording import Recording", "Imports go down"),
        ("recording/replay.py", "def late() -> None:\n    from ..update import run_update", "Imports go down"),
        ("errors.py", "from .protocol import process", "Imports go down"),
        ("update/session.py", "from ..engines.vllm.target import Target", "Imports go down"),
        ("trainer/server.py", "from ..engines import sglang", "Imports go down"),
        ("newcomer.py", "", "Imports go down"),
        ("trainer/server.py", "import ckpt", "A worker does not need the client"),
        ("../ckpt/errors.py", "from .client import Client", "Imports of the client go down"),
        ("../ckpt/newcomer.py", "", "Imports of the client go down"),
        ("../ckpt/client.py", "import ckpt_worker.engines.vllm", "The client needs only what publishes tensors"),
        ("engines/sglang/plugin.py", "from ..vllm.target import Target", "Engines do not know each other"),
        ("trainer/server.py", "from ..recording import Recording", "A trainer needs nothing of updates"),
        ("protocol/messages.py", "import torch", "The protocol needs no torch"),
        ("recording/regions.py", "from .tracer import Tracer", "No cycles"),
        ("update/session.py", "import ckpt_reference", "The worker does not need the reference engine"),
    ],
)
def test_they_find_an_import_that_they_forbid(copy: Path, file: str, line: str, contract: str) -> None:
    with (copy / "src" / "ckpt_worker" / file).open("a") as source:
        source.write(f"\n{line}\n")
    done = lint(copy)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{contract} BROKEN" in done.stdout
