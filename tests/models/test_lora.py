"""Properties of training with low-rank adapters: what is frozen, what the reference is, what is saved."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spin.errors import ModelError, ParamsError
from spin.models.checkpoint import load_model, reference_of, save_checkpoint
from spin.models.lora import adapter_tensors, load_trainable_state, trainable_state
from spin.params.model import BaseParams
from spin.params.schema import Params
from spin.params.training import LoraParams
from spin.runtime.files import read_json, replacing_dir, sha256_tree, write_json
from spin.stages.data import run_base, run_cache, run_data
from spin.stages.sample import run_opponents
from spin.stages.train import run_train
from spin.training.networks import iterates_up_to, load_networks
from tests.models.tiny import miniature_params, write_params

CPU = torch.device("cpu")
LORA = LoraParams(rank=2, alpha=8.0, targets=["to_q", "to_k", "to_v", "to_out.0"])


@pytest.fixture(scope="module")
def checkpoints(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base, iter1 and iter2, each iteration an adapter that was moved a good deal from the one before."""
    folder = tmp_path_factory.mktemp("checkpoints")
    reference = reference_of(BaseParams(source=str(tiny_base), revision=None, config=None, unet=None))
    (folder / "base").mkdir()
    write_json(folder / "base" / "model.json", reference)
    for name, prev in (("iter1", "base"), ("iter2", "iter1")):
        player = load_networks(folder / prev, CPU, LORA).player
        move(player)
        with replacing_dir(folder / name) as out:
            save_checkpoint(out, name, player, folder / prev)
    return folder


@pytest.fixture
def fresh_accelerator() -> Iterator[None]:
    """accelerate allows one precision per process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def move(player: nn.Module, by: float = 0.1) -> None:
    """As an optimizer would: change the trainable parameters, and nothing else."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in player.parameters():
            if parameter.requires_grad:
                parameter.add_(by * torch.randn(parameter.shape, generator=generator))


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x_t = torch.randn(3, 4, 8, 8, generator=generator, dtype=dtype)
    return x_t, torch.tensor([1, 400, 900]), torch.randn(3, 16, 16, generator=generator, dtype=dtype)


def predict(denoiser: nn.Module) -> Tensor:
    x_t, times, states = inputs(next(denoiser.parameters()).dtype)
    prediction: Tensor = denoiser(x_t, times, encoder_hidden_states=states).sample
    return prediction


def predicted(checkpoint: Path) -> Tensor:
    """What the finished checkpoint predicts, loaded as sampling loads it."""
    with torch.no_grad():
        return predict(load_model(checkpoint).denoiser)


@pytest.mark.parametrize("prev", ["base", "iter1", "iter2"])
def test_player_and_reference_agree_to_the_bit_before_the_first_update(checkpoints: Path, prev: str) -> None:
    sides = load_networks(checkpoints / prev, CPU, LORA)
    assert torch.equal(predict(sides.player), predict(sides.opponents[-1]))


def test_a_fresh_adapter_is_the_base_to_the_bit(checkpoints: Path) -> None:
    sides = load_networks(checkpoints / "base", CPU, LORA)
    assert torch.equal(predict(sides.player), predicted(checkpoints / "base"))


def test_the_reference_is_the_previous_iterate_and_not_the_base(checkpoints: Path) -> None:
    sides = load_networks(checkpoints / "iter1", CPU, LORA)
    move(sides.player)
    reference = predict(sides.opponents[-1])
    torch.testing.assert_close(reference, predicted(checkpoints / "iter1"), rtol=1e-3, atol=1e-4)
    assert (reference - predicted(checkpoints / "base")).abs().max() > 0.01
    assert (reference - predict(sides.player)).abs().max() > 0.01, (
        "the player moved away, the reference did not"
    )


def test_only_the_adapter_is_trained_and_the_base_is_in_memory_once(checkpoints: Path) -> None:
    sides = load_networks(checkpoints / "iter1", CPU, LORA)
    trained = {name for name, parameter in sides.player.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(".lora_A." in name or ".lora_B." in name for name in trained)
    assert sum(each.numel() for each in sides.trainable()) < 0.1 * sum(
        each.numel() for each in sides.player.parameters()
    )
    own = dict(sides.opponents[-1].named_parameters())
    for name, parameter in sides.player.named_parameters():
        assert (own[name].data_ptr() == parameter.data_ptr()) == (name not in trained), name
        assert not own[name].requires_grad


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_reference_may_run_between_forward_and_backward(checkpoints: Path, checkpointing: bool) -> None:
    def gradients(between: bool) -> list[Tensor]:
        sides = load_networks(checkpoints / "iter1", CPU, LORA)
        if checkpointing:
            sides.player.enable_gradient_checkpointing()  # type: ignore[operator]
        loss = predict(sides.player.train()).square().mean()
        if between:
            with torch.no_grad():
                predict(sides.opponents[-1])
        loss.backward()
        return [parameter.grad for parameter in sides.trainable() if parameter.grad is not None]

    alone, disturbed = gradients(False), gradients(True)
    assert len(alone) == len(disturbed) > 0
    assert all(torch.equal(first, second) for first, second in zip(alone, disturbed, strict=True))
    assert all(each.abs().max() > 0 for each in alone)


def test_a_base_in_half_precision_keeps_adapters_in_fp32(checkpoints: Path) -> None:
    sides = load_networks(checkpoints / "iter1", CPU, LORA, base_dtype=torch.bfloat16)
    assert {each.dtype for each in sides.trainable()} == {torch.float32}
    frozen = {each.dtype for each in sides.player.parameters() if not each.requires_grad}
    assert frozen == {torch.bfloat16}
    assert torch.equal(predict(sides.player), predict(sides.opponents[-1]))


def test_the_random_reference_draws_from_the_base_to_the_previous_iterate(checkpoints: Path) -> None:
    assert [each.name for each in iterates_up_to(checkpoints / "iter2")] == ["base", "iter1", "iter2"]
    for lora in (LORA, None):
        sides = load_networks(checkpoints / "iter2", CPU, lora, reference="random")
        for name, opponent in zip(("base", "iter1", "iter2"), sides.opponents, strict=True):
            torch.testing.assert_close(predict(opponent), predicted(checkpoints / name), rtol=1e-3, atol=1e-4)
        assert torch.equal(predict(sides.player), predict(sides.opponents[-1]))


def test_an_earlier_iterate_that_was_made_again_is_noticed(checkpoints: Path, tmp_path: Path) -> None:
    for name in ("base", "iter1", "iter2"):
        model = read_json(checkpoints / name / "model.json")
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "model.json", model | ({"unet_sha256": "0"} if name == "iter1" else {}))
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


def walk(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_diffusers_reads_the_adapter_with_its_alpha(checkpoints: Path, tiny_base: Path) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None)
    pipeline.load_lora_weights(checkpoints / "iter2" / "lora")
    (config,) = pipeline.unet.peft_config.values()
    assert (config.r, config.lora_alpha) == (2, 8.0)
    with torch.no_grad():
        theirs = predict(pipeline.unet)
    torch.testing.assert_close(theirs, predicted(checkpoints / "iter2"), rtol=1e-3, atol=1e-4)


def test_training_whole_continues_from_the_fused_adapter(checkpoints: Path) -> None:
    sides = load_networks(checkpoints / "iter1", CPU)
    assert all(parameter.requires_grad for parameter in sides.player.parameters())
    assert not any("lora" in name for name, _ in sides.player.named_parameters())
    torch.testing.assert_close(predict(sides.player), predict(sides.opponents[-1]), rtol=0, atol=0)
    assert torch.equal(predict(sides.player), predicted(checkpoints / "iter1"))


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


def test_the_resume_state_holds_the_adapter_alone_and_restores_it_to_the_bit(checkpoints: Path) -> None:
    first, second = (load_networks(checkpoints / "base", CPU, LORA).player for _ in range(2))
    move(first)
    state = trainable_state(first)
    assert len(state) == len(adapter_tensors(first))
    load_trainable_state(second, state)
    assert torch.equal(predict(first), predict(second))
    assert not torch.equal(predict(first), predicted(checkpoints / "base"))
    with pytest.raises(ModelError, match="the saved state must be of this network"):
        load_trainable_state(second, dict(list(state.items())[1:]))


def test_another_seed_draws_another_adapter_and_the_same_seed_the_same(checkpoints: Path) -> None:
    def drawn(seed: int) -> Tensor:
        player = load_networks(checkpoints / "base", CPU, LORA, seed=seed).player
        return torch.cat([tensor.flatten() for tensor in trainable_state(player).values()])

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))


@pytest.mark.usefixtures("fresh_accelerator")
@pytest.mark.slow
@pytest.mark.parametrize(("precision", "reference"), [("bf16", "previous"), ("fp32", "random")])
def test_every_iteration_starts_at_log_2_through_the_stages(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, reference: str
) -> None:
    raw = miniature_params(tiny_base)
    raw["training"] |= {"lora": LORA.model_dump(), "precision": precision, "gradient_checkpointing": True}
    raw["objective"]["reference"] = reference
    for iteration in raw["iterations"].values():
        iteration |= {"learning_rate": 0.05, "num_steps": 2}
    write_params(tmp_path, raw)
    params = Params.model_validate(raw)
    monkeypatch.chdir(tmp_path)
    run_data(params)
    run_base(params)
    run_cache(params)
    for name in ("iter1", "iter2"):
        run_opponents(params, name)
        curve = run_train(params, name)
        if reference == "previous" or name == "iter1":
            assert curve[0]["loss"] == pytest.approx(0.693147, abs=1e-6)
            assert curve[0]["error_real_change"] == 0.0
        assert curve[1]["error_real_change"] != 0.0
        assert {path.name for path in walk(Path("outputs/checkpoints") / name)} == {
            "model.json",
            "pytorch_lora_weights.safetensors",
        }
