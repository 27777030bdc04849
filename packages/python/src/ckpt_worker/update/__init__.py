"""One update, from the first message to the commit."""

from .load import Loader
from .session import UpdateResult, run_update

__all__ = ["Loader", "UpdateResult", "run_update"]
