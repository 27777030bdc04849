"""Targets of an update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Target:
    """A model and its configuration."""

    model: torch.nn.Module
    config: Any
    #: True if parameters without a tensor are an error.
    complete: bool
