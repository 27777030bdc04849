"""What an engine's own call tells its workers, for engines that have no package here."""

from .protocol.engine_call import Endpoint, UpdateCall, check_listening, endpoint_for, parse_call

__all__ = ["Endpoint", "UpdateCall", "check_listening", "endpoint_for", "parse_call"]
