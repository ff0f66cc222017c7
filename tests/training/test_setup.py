"""Properties of what a training stage starts from."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers.models.attention import BasicTransformerBlock
from torch.utils._pytree import tree_leaves

import spin.training.precision
import spin.training.setup
from spin.errors import ParamsError
from spin.params.objective import ObjectiveParams
from spin.params.schema import Params
from spin.stages.data import run_base
from spin.training.memory import MicroBatch
from spin.training.networks import Networks, load_networks
from spin.training.optim import make_optimizer
from spin.training.precision import make_accelerator
from spin.training.setup import (
    Inputs,
    compile_blocks,
    load_opponent,
    make_objective,
    make_recipe,
    make_state,
    reference_of_update,
    set_up_networks,
)
from tests.models.tiny import write_params
from tests.stages.projects import parameters, raw_parameters
from tests.training.games import fine_tuning, iteration, schedule, training_params
from tests.training.test_recipe import set_of

CPU = torch.device("cpu")
BASE = Path("outputs/checkpoints/base")
LORA = {"rank": 2, "alpha": 2.0, "targets": ["to_q"]}


@pytest.fixture(scope="module")
def project(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with nothing but its base."""
    folder = tmp_path_factory.mktemp("setup")
    write_params(folder, raw_parameters(tiny_base))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_base(parameters(tiny_base))
    return folder


@pytest.fixture(autouse=True)
def inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(project)
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


def test_the_player_alone_is_trained_and_no_text_encoder_is_loaded() -> None:
    networks = load_networks(BASE, CPU)
    assert len(networks.trainable()) == len(list(networks.player.parameters())) > 0
    (opponent,) = networks.opponents
    assert not opponent.training
    assert not any(parameter.requires_grad for parameter in opponent.parameters())
    with_adapter = load_networks(BASE, CPU, parameters(Path("x"), training={"lora": LORA}).training.lora)
    for each in (networks, with_adapter):
        assert each.diffusion.text_encoder is None  # type: ignore[attr-defined]


def test_a_fresh_adapter_is_drawn_from_the_seed_0_unless_another_is_given() -> None:
    lora = parameters(Path("x"), training={"lora": LORA}).training.lora
    first, again, other = (
        torch.cat([each.flatten() for each in load_networks(BASE, CPU, lora, **seed).trainable()])
        for seed in ({}, {"seed": 0}, {"seed": 1})
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_opponents_keep_their_products_in_the_training_precision_and_the_player_in_fp32(
    tiny_base: Path, precision: str, dtype: torch.dtype
) -> None:
    params = parameters(tiny_base, training={"precision": precision})
    networks = set_up_networks(params, "iter1", BASE, CPU)
    lone = load_opponent(BASE, CPU, params.training)
    for opponent in (*networks.opponents, lone):
        assert {parameter.dtype for parameter in opponent.conv_in.parameters()} == {dtype}  # type: ignore[operator, union-attr]
        assert not any(parameter.requires_grad for parameter in opponent.parameters())
    assert {parameter.dtype for parameter in networks.player.parameters()} == {torch.float32}
    assert make_accelerator(params.training).mixed_precision == ("no" if precision == "fp32" else precision)


@pytest.mark.parametrize("asked", [True, False])
def test_gradient_checkpointing_and_compiling_are_for_those_who_ask(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda network: compiled.append(network))
    params = parameters(tiny_base, training={"gradient_checkpointing": asked, "compile": asked})
    networks = set_up_networks(params, "iter1", BASE, CPU)
    assert networks.player.is_gradient_checkpointing is asked
    both = (networks.player, *networks.opponents)
    blocks = [
        part for network in both for part in network.modules() if isinstance(part, BasicTransformerBlock)
    ]
    assert len(blocks) == 2 * 4, "the ones that the tiny UNet repeats"
    assert compiled == (blocks if asked else [])


def test_a_network_that_repeats_no_block_is_compiled_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda network: compiled.append(network))
    compile_blocks(network := torch.nn.Sequential(torch.nn.Linear(1, 1)))
    assert compiled == [network]


@pytest.mark.parametrize("asked", ["previous", "random"])
def test_only_self_play_is_measured_against_all_earlier_iterates(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    given: list[Any] = []

    def recorded(*arguments: Any) -> Networks:
        given.append(arguments[3])
        return load_networks(*arguments)

    monkeypatch.setattr(spin.training.setup, "load_networks", recorded)
    params = parameters(tiny_base, objective={"reference": asked})
    for name in ("iter1", "sft", "dpo"):
        set_up_networks(params, name, BASE, CPU)
    assert given == [asked, "previous", "previous"]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_earlier_iterate_has_its_turn_as_the_reference(count: int) -> None:
    networks = [torch.nn.Identity() for _ in range(count)]
    opponent_of = reference_of_update(networks, iteration(), 0, "iter")
    assert {id(opponent_of(step)) for step in range(60)} == {id(network) for network in networks}


def recipe_and_batch(params: Params, name: str) -> tuple[Any, Any]:
    recipe = make_recipe(params, name, load_networks(BASE, CPU), set_of(12))
    return recipe, recipe.draw_batch(0)


@pytest.mark.parametrize("shared", [True, False])
def test_only_self_play_gives_the_members_of_a_pair_their_own_noise(tiny_base: Path, shared: bool) -> None:
    params = parameters(tiny_base, objective={"shared_noise": shared})
    for name, expected in (("iter1", shared), ("dpo", True)):
        _, batch = recipe_and_batch(params, name)
        assert torch.equal(batch.real.target, batch.gen.target) is expected


def test_the_recipe_is_that_of_the_parameters(tiny_base: Path) -> None:
    exact = {"kind": "exact", "timestep_weighting": "exact"}
    params = parameters(tiny_base, objective=exact, training={"max_grad_norm": 0.7})
    recipe, batch = recipe_and_batch(params, "iter1")
    assert (recipe.num_steps, recipe.max_grad_norm) == (4, 0.7)
    assert hasattr(batch, "noise_real"), "chains for the exact objective"
    assert not hasattr(recipe_and_batch(params, "dpo")[1], "noise_real"), "which the baselines do not have"
    assert recipe_and_batch(parameters(tiny_base), "iter1")[0].opponent_of(3) is not None


@pytest.mark.parametrize("kind", ["approximate", "exact"])
def test_a_whole_batch_moves_to_the_device(tiny_base: Path, kind: str) -> None:
    exact = {"kind": kind, "timestep_weighting": "exact"}
    _, batch = recipe_and_batch(parameters(tiny_base, objective=exact), "iter1")
    moved = batch.to(torch.device("meta"))
    assert type(moved) is type(batch)
    tensors = [leaf for leaf in tree_leaves(moved) if isinstance(leaf, torch.Tensor)]
    assert len(tensors) == len([leaf for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor)]) > 4
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_the_baselines_keep_the_papers_objective_whatever_self_play_minimizes(tiny_base: Path) -> None:
    changed = parameters(tiny_base, objective={"function": "hinge", "timestep_weighting": "exact"})
    plain = ObjectiveParams.model_validate(parameters(tiny_base).objective.model_dump())
    process = schedule()
    play = make_objective(iteration(), changed.objective, process, "epsilon")
    assert (play.beta, play.function) == (1.0, "hinge")
    assert play.weights is not None
    assert make_objective(fine_tuning(1), changed.objective, process, "epsilon").beta is None
    dpo = make_objective(changed.stage("dpo"), changed.objective, process, "epsilon")
    assert (dpo.beta, dpo.function, dpo.weights) == (2000.0, "logistic", None)
    assert make_objective(iteration(), plain, process, "epsilon").weights is None


@pytest.mark.parametrize("decay", [None, 0.5])
def test_a_state_starts_at_update_0_with_an_average_only_if_asked_for(
    tiny_base: Path, decay: float | None
) -> None:
    training = training_params(ema_decay=decay, batch_size=8, micro_batch_size="auto")
    state = make_state(load_networks(BASE, CPU), iteration(), training, make_accelerator(training))
    assert (state.step, state.overflows) == (0, 0)
    assert (state.ema is None) == (decay is None)
    assert state.micro_batch == MicroBatch(8, True)


def test_auto_starts_at_the_share_of_the_batch_that_one_process_has(monkeypatch: pytest.MonkeyPatch) -> None:
    training = training_params(batch_size=8, micro_batch_size="auto")
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    state = make_state(load_networks(BASE, CPU), iteration(), training, make_accelerator(training))
    assert state.micro_batch.size == 4


def test_adamw_is_one_kernel_on_cuda_alone() -> None:
    weights = [torch.nn.Parameter(torch.zeros(1))]
    made = [make_optimizer(weights, 0.1, training_params(), torch.device(name)) for name in ("cpu", "cuda")]
    assert [optimizer.defaults["fused"] for optimizer in made] == [None, True]


@pytest.mark.parametrize(
    ("micro_batch", "processes", "fits"),
    [
        (4, 1, True),
        (4, 2, True),
        (4, 4, True),
        (8, 2, True),
        (8, 3, False),
        ("auto", 8, True),
        ("auto", 3, False),
    ],
)
def test_a_batch_must_deal_out_evenly_over_micro_batches_and_processes(
    monkeypatch: pytest.MonkeyPatch, micro_batch: Any, processes: int, fits: bool
) -> None:
    state = SimpleNamespace(num_processes=processes, device=CPU)
    monkeypatch.setattr(spin.training.precision, "process_state", lambda: state)
    params = training_params(batch_size=8, micro_batch_size=micro_batch)
    if fits:
        make_accelerator(params)
        return
    with pytest.raises(ParamsError, match=r"training\.batch_size must be a multiple of the processes"):
        make_accelerator(params)


def test_snapshots_are_not_kept_unless_asked_for() -> None:
    here = Path()
    assert Inputs(here, here, here, here, here, here).snapshot_every == 0
