"""What users install: the wheel that is built from this folder, unpacked, without the rest of this tree."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePath

import pytest

HOME = Path(__file__).parents[1]

#: Imports names from the unpacked wheel at argv[1], never from this tree; an entry point's name may follow ``:``.
IMPORT = """
import sys, importlib
site = sys.argv[1]
sys.path.insert(0, site)
for name in sys.argv[2:]:
    module, _, attribute = name.partition(":")
    found = importlib.import_module(module)
    assert found.__file__.startswith(site), found.__file__
    if attribute: getattr(found, attribute)
"""

#: Names that users write: in programs, on vLLM's command line, in calls of their own engines.
WRITTEN = [
    "ckpt:ParameterServer",
    "ckpt:AsyncParameterServer",
    "ckpt_worker:run_update",
    "ckpt_worker.vllm:WorkerExtension",
    "ckpt_worker.sglang:register",
    "ckpt_worker.trainer:serve",
    "ckpt_worker.trainer:publish",
    "ckpt_worker.engine_call:UpdateCall",
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked."""
    scratch = tmp_path_factory.mktemp("wheel")
    for name in ("src", "pyproject.toml", "hatch_build.py", "README.md"):
        copy = shutil.copytree if (HOME / name).is_dir() else shutil.copy
        copy(HOME / name, scratch / name)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(scratch / "dist")]
    subprocess.run(build, cwd=scratch, check=True, capture_output=True, timeout=120)
    [wheel] = (scratch / "dist").glob("ckpt-*-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(scratch / "site")
    return scratch / "site"


def test_it_has_client_and_worker_and_not_the_reference_engine(site: Path) -> None:
    files = {path.relative_to(site) for path in site.rglob("*") if path.is_file()}
    package = {path for path in files if path.parts[0] in ("ckpt", "ckpt_worker")}
    source = {path.relative_to(HOME / "src") for path in (HOME / "src").rglob("*") if path.suffix != ".pyc" and path.is_file()}
    assert package == source
    assert PurePath("ckpt_worker/py.typed") in package
    assert {path.parts[0] for path in files - package} == {next(site.glob("*.dist-info")).name}
    assert not [path for path in files if "reference" in str(path)]
    metadata = next(site.glob("*.dist-info/METADATA")).read_text()
    assert "safetensors" not in metadata.split("\n\n")[0]


def test_names_that_users_write_are_there(site: Path) -> None:
    lines = next(site.glob("*.dist-info/entry_points.txt")).read_text().splitlines()
    entries = [line.partition(" = ")[2] for line in lines if " = " in line]
    assert len(entries) == 2
    # -I: ignores this folder and PYTHONPATH.
    command = [sys.executable, "-I", "-c", IMPORT, str(site), *WRITTEN, *entries]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
