"""One update, from the first message to the commit."""

from .session import Loader, UpdateResult, run_update

__all__ = ["Loader", "UpdateResult", "run_update"]
