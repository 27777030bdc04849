"""A reference engine whose loader is odd in a way that is named by its first argument; the others are the reference engine's.

threads: experts are copied by a pool of threads. once-swapped: the third load of a tensor goes to its neighbour's place. tied: an output head is
loaded over the embeddings. hidden: bytes of a parameter are counted up past torch.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
from ckpt_reference.__main__ import main
from ckpt_reference.engine import ReferenceEngine

Named = tuple[str, torch.Tensor]
KIND = sys.argv[1]


class OddEngine(ReferenceEngine):
    """Loads as its kind says."""

    _pool = ThreadPoolExecutor(2)
    _calls: Counter[str] = Counter()
    _layers: set[str] = set()

    def _load(self, tensors: Iterable[Named]) -> None:
        if KIND == "threads":
            futures = []
            for name, tensor in tensors:
                if "experts" in name:
                    futures.append(self._pool.submit(super()._load, [(name, tensor)]))
                else:
                    super()._load([(name, tensor)])
            for future in futures:
                future.result()
        elif KIND == "once-swapped":
            super()._load([self._swapped(name, tensor) for name, tensor in tensors])
        elif KIND == "tied":
            for name, tensor in tensors:
                super()._load([("model.embed_tokens.weight" if name == "lm_head.weight" else name, tensor)])
        else:
            super()._load(tensors)
            hidden = self._parameters.tensors.get("hidden.weight")
            if hidden is not None:
                hidden.view(torch.uint8).numpy()[3] += 1

    def _swapped(self, name: str, tensor: torch.Tensor) -> Named:
        self._calls[name] += 1
        other = {"left": "right", "right": "left"}
        parts = name.split(".")
        # The first layer alone that comes so far: the one that is checked.
        if self._calls[name] == 3 and parts[-2] in other and self._layers <= {parts[2]}:
            self._layers.add(parts[2])
            parts[-2] = other[parts[-2]]
        return ".".join(parts), tensor


if __name__ == "__main__":
    sys.exit(main(sys.argv[2:], OddEngine))
