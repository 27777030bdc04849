"""Names of trainers as names of checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ckpt import CkptError, OperationError, rename_tensors


def named(*names: str) -> dict[str, torch.Tensor]:
    return {name: torch.full((2,), float(index)) for index, name in enumerate(names)}


def test_parts_that_wrappers_insert_are_removed() -> None:
    compiled: Any = torch.compile(torch.nn.Sequential(torch.nn.Linear(2, 2)), backend="eager")
    assert list(rename_tensors(compiled.state_dict())) == ["0.weight", "0.bias"]
    for wrapped in (
        "_orig_mod.model.layers.0.w",
        "module._orig_mod.model.layers.0.w",
        "module.module.model.layers.0.w",
        "base_model.model.model.layers.0._checkpoint_wrapped_module.w",
        "_fsdp_wrapped_module.model.layers.0._fsdp_wrapped_module.w",
    ):
        assert list(rename_tensors(named(wrapped))) == ["model.layers.0.w"]
    assert list(rename_tensors(named("model.module.w"))) == ["model.module.w"]
    assert list(rename_tensors(named("module.w"), strip=())) == ["module.w"]


def test_names_are_mapped_by_a_dictionary_or_a_function() -> None:
    tensors = named("module.decoder.a", "b", "left.out")
    by_name = {"decoder.a": "model.a", "left.out": None}
    assert list(rename_tensors(tensors, rename=by_name)) == ["model.a", "b"]
    assert list(rename_tensors(tensors, rename={"module.decoder.a": "whole"})) == ["whole", "b", "left.out"]
    assert list(rename_tensors(tensors, rename=lambda name: None if name == "b" else name.upper())) == ["DECODER.A", "LEFT.OUT"]
    with pytest.raises(OperationError, match=r"'module.a' and 'a' would both be named 'a'") as error:
        rename_tensors(named("module.a", "a"))
    assert error.value.fields["tensor"] == "a"


def test_experts_are_divided_and_joined() -> None:
    torch.manual_seed(0)
    stacked = {
        "layers.0.experts.gate_up_proj": torch.randn(3, 4, 5),
        "layers.0.experts.down_proj": torch.randn(3, 5, 2),
        "layers.0.experts.down_proj_bias": torch.randn(3, 5),
        "layers.0.gate.weight": torch.randn(3, 5),
    }
    split = rename_tensors(stacked, experts="split")
    assert len(split) == 1 + 3 * 4
    assert torch.equal(split["layers.0.experts.1.gate_proj.weight"], stacked["layers.0.experts.gate_up_proj"][1, :2])
    assert torch.equal(split["layers.0.experts.1.up_proj.weight"], stacked["layers.0.experts.gate_up_proj"][1, 2:])
    assert torch.equal(split["layers.0.experts.2.down_proj.bias"], stacked["layers.0.experts.down_proj_bias"][2])
    joined = rename_tensors(split, experts="stack")
    assert joined.keys() == stacked.keys()
    for name, tensor in joined.items():
        assert torch.equal(tensor, stacked[name]), name
    whole = rename_tensors(stacked, experts="split", fused={})
    assert torch.equal(whole["layers.0.experts.0.gate_up_proj.weight"], stacked["layers.0.experts.gate_up_proj"][0])
    del split["layers.0.experts.1.down_proj.weight"]
    with pytest.raises(CkptError, match=r"expert 1 is missing, and expert 2 is there"):
        rename_tensors(split, experts="stack")
    with pytest.raises(CkptError, match="3 rows of an expert cannot be divided into gate_proj, up_proj"):
        rename_tensors({"experts.gate_up_proj": torch.ones(2, 3, 1)}, experts="split")


def test_tied_weights_are_added_or_left_out() -> None:
    embedding = torch.ones(3)
    tensors = {"embed.weight": embedding, "head.weight": embedding, "other": torch.ones(3)}
    assert list(rename_tensors(tensors, expected=["embed.weight", "other"])) == ["embed.weight", "other"]
    del tensors["head.weight"]
    added = rename_tensors(tensors, tied={"head.weight": "embed.weight"}, expected=["embed.weight", "head.weight", "other"])
    assert added["head.weight"] is embedding
    with pytest.raises(CkptError, match=r"tied to 'embd.weight', which the trainer lacks, nearest: 'embed.weight'"):
        rename_tensors(tensors, tied={"head.weight": "embd.weight"})


def test_what_does_not_match_is_named_on_both_sides(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    theirs = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(8)]
    save_file(named(*theirs), tmp_path / "model.safetensors")
    assert list(rename_tensors(named(*theirs), expected=tmp_path)) == theirs
    ours = [*theirs[:1], *(name.replace("up_proj", "up") for name in theirs[1:]), "critic"]
    with pytest.raises(OperationError) as error:
        rename_tensors(named(*ours), expected=tmp_path)
    assert error.value.fields["unknown"] == ours[1:]
    assert error.value.fields["missing"] == theirs[1:]
    lines = error.value.message.splitlines()
    assert lines[1] == "8 of the trainer's, which the checkpoint lacks:"
    assert lines[2].startswith("  'model.layers.1.mlp.up.weight', nearest: 'model.layers.1.mlp.up_proj.weight'")
    assert "7 of the checkpoint's, which the trainer lacks:" in lines
    assert "  and 3 more" in lines
    with pytest.raises(CkptError, match="has no safetensors files"):
        rename_tensors(named("a"), expected=tmp_path / "none")
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(CkptError, match="cannot be read") as unreadable:
        rename_tensors(named("a"), expected=str(tmp_path))
    assert unreadable.value.code == "CHECKPOINT_UNREADABLE"
