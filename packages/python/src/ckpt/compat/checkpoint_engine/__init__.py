"""checkpoint-engine's interface, for programs that were written for it: change the import, keep the rest.

.. code-block:: python

    from ckpt.compat.checkpoint_engine import ParameterServer   # was: from checkpoint_engine.ps import ParameterServer

Engines keep checkpoint-engine's own worker. docs/from-checkpoint-engine.md says each difference.
"""

from .api import request_inference_to_update
from .ps import Metas, ParameterServer

__all__ = ["Metas", "ParameterServer", "request_inference_to_update"]
