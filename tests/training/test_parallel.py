"""Two processes train as one does: with a whole network each, or with half of it; and each goes on where the other was."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from safetensors.torch import load_file
from torch import Tensor

import spin.stages.train
from spin.errors import ParamsError
from spin.stages.train import run_train
from spin.training.parallel import is_sharded, shard_size
from spin.training.setup import set_up_networks
from tests.models.tiny_families import write_tiny_sd3
from tests.stages.projects import parameters, prepare
from tests.training.games import training_params
from tests.training.running import LORA, assert_same, differ, trained
from tests.training.two_processes import in_two_processes

CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "spin": ("iter1", {}, 1),
    "spin sharded": ("iter1", {}, 2),
    "spin, errors of the reference kept": ("iter1", {"reference_draws": 1}, 1),
    "spin, errors of the reference kept, sharded": ("iter1", {"reference_draws": 1}, 2),
    "dpo": ("dpo", {}, 1),
    "dpo sharded": ("dpo", {}, 2),
    "lora with an average": ("iter1", {"lora": LORA, "ema_decay": 0.5}, 1),
    "lora with an average, sharded": ("iter1", {"lora": LORA, "ema_decay": 0.5}, 2),
}
"""Stage, changes to the training section, SPIN_SHARD."""

Weights = dict[str, Tensor]
Curve = list[dict[str, float]]


def together(folder: Path, work: Callable[[], Any], shard: int, processes: int = 2) -> Any:
    """What the first of two processes returns, each of which has all of a network or half of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPIN_SHARD", str(shard))
        return in_two_processes(folder, lambda _: work(), processes)[0]


def written(name: str = "iter1") -> Weights:
    (weights,) = Path(f"outputs/checkpoints/{name}").glob("*/*.safetensors")
    return load_file(weights)


def assert_close(one: tuple[Weights, Curve], other: tuple[Weights, Curve]) -> None:
    assert differ(one[0], other[0]) < 5e-5, "at a learning rate of 1e-3"
    for here, there in zip(one[1], other[1], strict=True):
        assert here["loss"] == pytest.approx(there["loss"], abs=1e-5)
        assert here == pytest.approx(there, rel=1e-3, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one_does(inside: Path, tiny_base: Path, tmp_path: Path, case: str) -> None:
    name, changes, shard = CASES[case]
    training = {"micro_batch_size": 2, "preview_every": 3, **changes}
    beta = {
        "dpo": {"beta": 100.0}
    }  # the iterations': at 2000 the rounding of an error is above 1e-5 in the loss
    params = parameters(tiny_base, training=training, baselines=beta)
    alone = trained(params, name)
    curve = together(tmp_path, lambda: run_train(params, name), shard)
    assert_close((written(name), curve), alone)
    if shard == 1:
        assert differ(written(name), alone[0]) == 0, "two equal micro-batches are added up here and there"
    assert Path(f"outputs/previews/{name}/step-000003.png").is_file()


@pytest.mark.slow
def test_two_pairs_of_processes_with_half_a_network_each_train_as_one_does(
    inside: Path, tiny_base: Path, tmp_path: Path
) -> None:
    params = parameters(tiny_base, iterations={"iter1": {"num_steps": 3}})
    alone = trained(params)

    def work() -> tuple[Curve, Any]:
        networks = set_up_networks(params, "iter1", Path("outputs/checkpoints/base"), torch.device("cpu"))
        weight: Any = next(networks.player.parameters())
        return run_train(params, "iter1"), (weight.device_mesh.mesh.tolist(), str(weight.placements))

    curve, (mesh, placements) = together(tmp_path, work, 2, processes=4)
    assert (mesh, placements) == ([[0, 1], [2, 3]], "(Replicate(), Shard(dim=0))")
    assert_close((written(), curve), alone)


def test_half_of_every_weight_is_in_each_process_and_margins_still_start_at_zero(
    inside: Path, tiny_base: Path, tmp_path: Path
) -> None:
    params = parameters(tiny_base, training={"precision": "bf16"})

    def work() -> tuple[list[bool], float, dict[str, float]]:
        networks = set_up_networks(params, "iter1", Path("outputs/checkpoints/base"), torch.device("cpu"))
        both = [networks.player, *networks.opponents]
        held, all_of_it = (
            sum(count(each) for each in both[0].parameters())
            for count in (lambda each: each.to_local().numel(), Tensor.numel)
        )
        return [is_sharded(each) for each in both], held / all_of_it, run_train(params, "iter1")[0]

    sharded, held, first = together(tmp_path, work, 2)
    assert sharded == [True, True], "the opponent too"
    assert held == pytest.approx(0.5, abs=0.05)
    assert (first["margin"], first["error_real_change"]) == (0.0, 0.0)


class KilledError(Exception):
    """Stands in for a kill."""


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"lora": LORA, "ema_decay": 0.5}], ids=["whole", "lora"])
def test_what_two_processes_with_half_a_network_each_left_one_finishes_and_the_other_way_round(
    inside: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    params = parameters(tiny_base, training={"micro_batch_size": 2, **changes})
    unbroken = trained(params)

    def interrupted() -> int:
        train = spin.stages.train.train

        def killed(state: Any, recipe: Any, accelerator: Any, on_step: Callable[..., None]) -> None:
            def until_two(report: dict[str, float]) -> None:
                on_step(report)
                if report["step"] == 2:
                    raise KilledError

            train(state, recipe, accelerator, until_two)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(spin.stages.train, "train", killed)
            with pytest.raises(KilledError):
                run_train(params, "iter1")
        return 2

    together(tmp_path, interrupted, 2)
    assert_close(trained(params), unbroken)
    interrupted()
    curve = together(tmp_path, lambda: run_train(params, "iter1"), 2)
    assert_close((written(), curve), unbroken)


EULER: dict[str, dict[str, Any]] = {"opponents": {"scheduler": "euler"}, "evaluate": {"scheduler": "euler"}}


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of Stable Diffusion 3's type, in a project up to its opponents."""
    folder = tmp_path_factory.mktemp("sd3")
    write_tiny_sd3(folder / "base", t5=False)
    return prepare(folder, folder / "base", **EULER)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"lora": LORA}], ids=["whole", "lora"])
def test_a_sharded_transformer_trains_and_loads_in_diffusers(
    sd3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.chdir(sd3)
    params = parameters(sd3 / "base", training=changes, **EULER)
    alone = trained(params)
    curve = together(tmp_path, lambda: run_train(params, "iter1"), 2)
    assert_close((written(), curve), alone)
    pipeline = StableDiffusion3Pipeline.from_pretrained(sd3 / "base", text_encoder_3=None, tokenizer_3=None)
    of_base = drawn(pipeline)
    if changes:
        pipeline.load_lora_weights(sd3 / "outputs/checkpoints/iter1/lora")
        assert pipeline.get_active_adapters()
    else:
        transformer = SD3Transformer2DModel.from_pretrained(sd3 / "outputs/checkpoints/iter1/transformer")
        assert_same(transformer.state_dict(), written())
        pipeline.transformer = transformer
    images = drawn(pipeline)
    assert torch.isfinite(images).all()
    assert not torch.equal(images, of_base), "what was trained is in force"


def drawn(pipeline: StableDiffusion3Pipeline) -> Tensor:
    prompts = {"prompt": "a red circle", "height": 32, "width": 32, "num_inference_steps": 2}
    images: Tensor = pipeline(**prompts, output_type="pt", generator=torch.Generator().manual_seed(0)).images
    return images


@pytest.mark.parametrize("given", ["2", "0", "two", "²"])
def test_a_number_that_does_not_divide_the_processes_is_refused(
    monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("SPIN_SHARD", given)
    with pytest.raises(
        ParamsError, match=rf"SPIN_SHARD must divide the number of processes, 1, got '{given}'"
    ):
        shard_size(training_params())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "fp16"}, "precision must be bf16 or fp32"),
        ({"optimizer": "adafactor"}, "optimizer must be adamw"),
    ],
)
def test_what_a_sharded_training_cannot_have_is_refused(
    tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    def work() -> str:
        with pytest.raises(ParamsError) as raised:
            shard_size(training_params(**changes))
        return str(raised.value)

    assert message in together(tmp_path, work, 2)
