"""One update, from the first message to the commit, and its preparation."""

from .load import Loader
from .prepare import run_prepare
from .session import UpdateResult, run_update

__all__ = ["Loader", "UpdateResult", "run_prepare", "run_update"]
