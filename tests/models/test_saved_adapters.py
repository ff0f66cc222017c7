"""A saved adapter is the adapter alone, is read back to the bit, and is refused where it does not fit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from spin.errors import ModelError, ParamsError
from spin.models.checkpoint import load_model, save_checkpoint
from spin.models.lora import adapter_tensors, trainable_state
from spin.runtime.files import read_json, replacing_dir, sha256_tree, write_json
from spin.stages.resume import restore_state, save_state
from spin.training.loop import TrainState
from spin.training.memory import MicroBatch
from spin.training.networks import iterates_up_to, load_networks
from tests.models.adapters import CPU, LORA, move, predict, predicted, walk


def test_an_earlier_iterate_that_was_made_again_is_noticed(checkpoints: Path, tmp_path: Path) -> None:
    for name in ("base", "iter1", "iter2"):
        model = read_json(checkpoints / name / "model.json")
        (tmp_path / name).mkdir()
        write_json(
            tmp_path / name / "model.json", model | ({"denoiser_sha256": "0"} if name == "iter1" else {})
        )
    with pytest.raises(ModelError, match="from which iter2 was trained, but it has other weights"):
        iterates_up_to(tmp_path / "iter2")


def test_a_checkpoint_is_the_adapter_alone_and_its_bytes_repeat(checkpoints: Path, tmp_path: Path) -> None:
    files = sorted(path.relative_to(checkpoints / "iter1").as_posix() for path in walk(checkpoints / "iter1"))
    assert files == ["lora/pytorch_lora_weights.safetensors", "model.json"]
    record = read_json(checkpoints / "iter1" / "model.json")
    assert record["lora"]["rank"] == 2
    assert record["lora"]["alpha"] == 8.0
    assert record["lora"]["targets"] == sorted(LORA.targets)
    assert record["base"] == read_json(checkpoints / "base" / "model.json")
    player = load_networks(checkpoints / "iter1", CPU, LORA).player
    for time in range(4):
        (tmp_path / f"{time}").mkdir()
        save_checkpoint(tmp_path / f"{time}", "iter1", player, checkpoints / "base")
    assert len({sha256_tree(tmp_path / f"{time}") for time in range(4)}) == 1
    assert sha256_tree(tmp_path / "0" / "lora") == sha256_tree(checkpoints / "iter1" / "lora")


def test_diffusers_reads_the_adapter_with_its_alpha(checkpoints: Path, tiny_base: Path) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None)
    pipeline.load_lora_weights(checkpoints / "iter2" / "lora")
    (config,) = pipeline.unet.peft_config.values()
    assert (config.r, config.lora_alpha) == (2, 8.0)
    with torch.no_grad():
        theirs = predict(pipeline.unet)
    torch.testing.assert_close(theirs, predicted(checkpoints / "iter2"), rtol=1e-3, atol=1e-4)


def test_an_adapter_over_a_checkpoint_trained_whole_is_refused(checkpoints: Path, tmp_path: Path) -> None:
    player = load_networks(checkpoints / "base", CPU).player
    with replacing_dir(tmp_path / "whole") as out:
        save_checkpoint(out, "whole", player, checkpoints / "base")
    with pytest.raises(ModelError, match=r"whole was trained whole; .*set training.lora to null"):
        load_networks(tmp_path / "whole", CPU, LORA)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 4}, r"training\.lora\.rank must be that of iter1, .*, 2, got 4"),
        ({"alpha": 2.0}, r"training\.lora\.alpha must be that of iter1, .*, 8\.0, got 2\.0"),
        ({"targets": ["to_q"]}, r"training\.lora\.targets must be that of iter1"),
    ],
)
def test_an_adapter_of_another_shape_is_refused(
    checkpoints: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        load_networks(checkpoints / "iter1", CPU, LORA.model_copy(update=change))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["to_q", "to_queue"], "to_queue is the ending of none"),
        (["norm1"], "must name linear or convolution layers, got norm1"),
    ],
)
def test_targets_that_cannot_have_an_adapter_are_refused(
    checkpoints: Path, targets: list[str], message: str
) -> None:
    with pytest.raises(ParamsError, match=message):
        load_networks(checkpoints / "base", CPU, LORA.model_copy(update={"targets": targets}))


def test_a_torn_adapter_is_refused(checkpoints: Path, tmp_path: Path) -> None:
    (tmp_path / "iter1" / "lora").mkdir(parents=True)
    model = (checkpoints / "iter1" / "model.json").read_text()
    (tmp_path / "iter1" / "model.json").write_text(model)
    with pytest.raises(ModelError, match="is missing; make the checkpoint again"):
        load_model(tmp_path / "iter1")
    (tmp_path / "iter1" / "lora" / "pytorch_lora_weights.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match="is another; make the checkpoint again"):
        load_model(tmp_path / "iter1")


def test_the_resume_state_holds_the_adapter_alone_and_restores_it_to_the_bit(
    checkpoints: Path, tmp_path: Path
) -> None:
    def state_of(player: nn.Module) -> TrainState:
        weights = [each for each in player.parameters() if each.requires_grad]
        optimizer = torch.optim.AdamW(weights)
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
        return TrainState(player, weights, optimizer, schedule, MicroBatch(1, False))

    first, second = (load_networks(checkpoints / "base", CPU, LORA).player for _ in range(2))
    move(first)
    state = trainable_state(first)
    assert len(state) == len(adapter_tensors(first))
    save_state(tmp_path, state_of(first), Accelerator(), [])
    restore_state(tmp_path, state_of(second), Accelerator())
    assert torch.equal(predict(first), predict(second))
    assert not torch.equal(predict(first), predicted(checkpoints / "base"))
    other = load_networks(checkpoints / "base", CPU, LORA.model_copy(update={"rank": 3})).player
    with pytest.raises(ModelError, match="its weights must be of this network"):
        restore_state(tmp_path, state_of(other), Accelerator())
