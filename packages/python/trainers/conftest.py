"""Tests with real training frameworks, in an environment of their own: ``npm run test:trainers``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_PYTHON = Path(__file__).resolve().parents[1]
_PATHS = [_PYTHON / "src", _PYTHON / "tests", _PYTHON / "trainers", _PYTHON.parent / "testing/python/src"]
# For this process, and for those that frameworks start.
sys.path[:0] = [str(path) for path in _PATHS]
os.environ["PYTHONPATH"] = os.pathsep.join([*map(str, _PATHS), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)

pytest_plugins = ["bundle_fixture"]
