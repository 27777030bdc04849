"""Arguments of an engine's own call to its workers, for engines that have no package here."""

from .protocol.engine_call import Endpoint, UpdateCall, check_listening, endpoint_for, parse_call

__all__ = ["Endpoint", "UpdateCall", "check_listening", "endpoint_for", "parse_call"]
