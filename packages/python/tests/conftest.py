"""What several tests share."""

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
    """A bundle of the rank program, made from the sources; programs that the test starts use it, too."""
    given = os.environ.get("CKPT_BUNDLE")
    if given:
        yield Path(given)
        return
    node, loader = shutil.which("node"), ROOT / "node_modules/tsx/dist/loader.mjs"
    if node is None or not loader.exists():
        pytest.skip("no Node, or no npm packages: npm run setup")
    out = tmp_path_factory.mktemp("rank") / "bundle"
    source = ["--import", loader.as_uri(), "--conditions=@ckpt/source", str(ROOT / "packages/bundle/src/main.ts")]
    make = [node, *source, "--no-node", "--programs", "rank", "--out", str(out)]
    subprocess.run(make, check=True, capture_output=True, timeout=300)
    os.environ["CKPT_BUNDLE"] = str(out)
    yield out
    del os.environ["CKPT_BUNDLE"]
