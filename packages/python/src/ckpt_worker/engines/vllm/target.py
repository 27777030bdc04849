"""What an update is loaded into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Target:
    """A model and the configuration it was made from."""

    model: torch.nn.Module
    config: Any
    #: True if parameters that no tensor reaches are an error.
    complete: bool
