"""The fixture of the other tests that makes a bundle of the rank program."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_spec = importlib.util.spec_from_file_location("ckpt_tests_conftest", Path(__file__).resolve().parents[1] / "tests/conftest.py")
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
rank_program = _module.rank_program
