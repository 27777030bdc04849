"""A bundle of the rank program with its own Node, so that tests need none on their PATH."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def rank_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Makes it from the sources; programs that the tests start use it, too."""
    node, loader = shutil.which("node"), ROOT / "node_modules/tsx/dist/loader.mjs"
    if node is None or not loader.exists():
        pytest.skip("no Node to make the bundle with, or no npm packages: npm run setup")
    out = tmp_path_factory.mktemp("rank") / "bundle"
    source = ["--import", loader.as_uri(), "--conditions=@ckpt/source", str(ROOT / "packages/bundle/src/main.ts")]
    subprocess.run([node, *source, "--programs", "rank", "--out", str(out)], check=True, capture_output=True, timeout=300)
    os.environ["CKPT_BUNDLE"] = str(out)
    yield out
    del os.environ["CKPT_BUNDLE"]


@pytest.fixture
def no_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PATH with everything of the system except Node."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for program in Path("/usr/bin").iterdir():
        if not program.name.startswith(("node", "npm", "npx")):
            (directory / program.name).symlink_to(program)
    monkeypatch.setenv("PATH", str(directory))
    # Engines and trainers of one test share the processors: threads that wait for each other would take all of them.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert shutil.which("node") is None
