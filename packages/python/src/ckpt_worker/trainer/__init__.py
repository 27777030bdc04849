"""The trainer's side of ckpt: serves tensors to ranks on the same machine, without a file. See docs/trainers.md.

.. code-block:: python

    from ckpt_worker.trainer import serve

    with serve(model.state_dict(), "/run/user/1000/ckpt/rank0.sock") as served:
        ...                      # the rank registers { trainer: '/run/user/1000/ckpt/rank0.sock' }
        served.wait(timeout=60)  # now the weights may change again
"""

from .publication import Publication, PublishedTensor, publish
from .server import Served, serve

__all__ = ["Publication", "PublishedTensor", "Served", "publish", "serve"]
