"""Which models an update is for, and tensors with names that the engine does not know."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace

import pytest
import torch

from ckpt_worker.engines.vllm.extension import _drafter
from ckpt_worker.engines.vllm.in_place import InPlaceLoad
from ckpt_worker.engines.vllm.target import Target
from ckpt_worker.errors import LayoutError


class Lenient(torch.nn.Module):
    """A model whose loader ignores unknown names, as several of vLLM's do."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(2))
        self.requires_grad_(False)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        parameters = dict(self.named_parameters())
        loaded = set()
        for name, tensor in weights:
            if name in parameters:
                parameters[name].data.copy_(tensor)
                loaded.add(name)
        return loaded


#: Renaming by wrappers in trainers: PEFT, torch.compile, DDP, FSDP, a value head.
RENAMES: dict[str, Callable[[str], str]] = {
    "peft": lambda name: name.replace(".weight", ".base_layer.weight").replace(".bias", ".base_layer.bias"),
    "compiled": lambda name: f"_orig_mod.{name}",
    "data parallel": lambda name: f"module.{name}",
    "sharded": lambda name: name.replace("layers.1.", "layers.1._fsdp_wrapped_module."),
    "value head": lambda name: f"pretrained_model.{name}",
    "one of them": lambda name: name.replace("layers.1.bias", "layers.1.Bias"),
}


@pytest.mark.parametrize("how", RENAMES)
def test_names_that_the_engine_does_not_know_are_an_error_although_its_loader_leaves_them_out(how: str) -> None:
    model = Lenient()
    load = InPlaceLoad([Target(model, SimpleNamespace(quantization=None), True)], torch.device("cpu"))
    names = [name for name, _ in model.named_parameters()]
    load.load((RENAMES[how](name), torch.ones(parameter.shape)) for name, parameter in model.named_parameters())
    missing = [name for name in names if RENAMES[how](name) != name]
    with pytest.raises(LayoutError, match=rf"has no tensors for {len(missing)} parameters of the model") as caught:
        load.finish()
    assert missing[0] in str(caught.value)


OWN, ANOTHER = "model", "drafter"


@pytest.mark.parametrize("getter", [True, False])
@pytest.mark.parametrize(
    ("wanted", "checkpoint", "taken"),
    [
        ("auto", OWN, True),  # multi-token prediction: the layers come from the model's own checkpoint
        ("auto", None, True),
        ("auto", ANOTHER, False),  # a frozen drafter with a checkpoint of its own is left as it is
        ("load", ANOTHER, True),
        ("skip", OWN, False),
    ],
)
def test_a_drafter_takes_the_weights_where_they_come_from_the_model_s_checkpoint(
    wanted: str, checkpoint: str | None, taken: bool, getter: bool
) -> None:
    draft = torch.nn.Linear(1, 1)
    config = None if checkpoint is None else SimpleNamespace(model=checkpoint)
    worker = SimpleNamespace(
        model_config=SimpleNamespace(model=OWN),
        model_runner=SimpleNamespace(get_draft_model=lambda: draft)
        if getter
        else SimpleNamespace(drafter=SimpleNamespace(model=draft)),
        vllm_config=SimpleNamespace(speculative_config=SimpleNamespace(draft_model_config=config)),
    )
    targets = _drafter(worker, wanted)
    assert [target.model for target in targets] == ([draft] if taken else [])
    # It may have less than the checkpoint, and the checkpoint may have nothing for it.
    assert not any(target.complete for target in targets)
    worker.vllm_config.speculative_config = None
    assert _drafter(worker, wanted) == []
