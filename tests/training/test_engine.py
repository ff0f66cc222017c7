"""Properties of the trainer: optimizers, precision, memory, previews, resuming, several processes."""

import copy
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

import spin.stages.preview
import spin.stages.train
import spin.training.loop
import spin.training.setup
from spin.errors import NonFiniteError, ParamsError
from spin.models.stable_diffusion import StableDiffusion
from spin.params.training import IterationParams
from spin.runtime.files import read_json, sha256_tree
from spin.stages.train import run_train
from spin.training.networks import Networks
from spin.training.precision import store_products_in
from spin.training.setup import reference_of_update
from tests.models.tiny import write_params
from tests.stages.projects import parameters, prepare, raw_parameters

LORA = {"rank": 4, "alpha": 4.0, "targets": ["to_q", "to_v"]}
LOG_2 = pytest.approx(0.693147, abs=1e-6)


@pytest.fixture(scope="module")
def project(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("engine"), tiny_base)


@pytest.fixture
def inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The project as the working folder, and accelerate's precision, which is per process, free to change."""
    monkeypatch.chdir(project)
    AcceleratorState._reset_state()
    yield project
    AcceleratorState._reset_state()


def trained(params: Any, name: str = "iter1") -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    curve = run_train(params, name)
    (weights,) = Path(f"outputs/checkpoints/{name}").glob("*/*.safetensors")
    return load_file(weights), curve


@pytest.fixture
def plain(inside: Path, tiny_base: Path) -> dict[str, torch.Tensor]:
    """Weights trained with the miniature parameters as they are."""
    if not PLAIN:
        PLAIN.append(trained(parameters(tiny_base))[0])
    return PLAIN[0]


PLAIN: list[dict[str, torch.Tensor]] = []


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def differ(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max((one[name] - other[name]).abs().max().item() for name in one)


def test_adafactor_trains_in_its_own_way(
    inside: Path, tiny_base: Path, plain: dict[str, torch.Tensor]
) -> None:
    adafactor, curve = trained(parameters(tiny_base, training={"optimizer": "adafactor"}))
    assert curve[0]["loss"] == LOG_2
    assert curve[-1]["loss"] != LOG_2
    assert differ(plain, adafactor) > 0


def test_8_bit_adam_without_cuda_is_one_sentence(inside: Path, tiny_base: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("for machines without CUDA")
    with pytest.raises(
        ParamsError, match=r"training\.optimizer must be adamw or adafactor on the device cpu"
    ):
        trained(parameters(tiny_base, training={"optimizer": "adamw_8bit"}))


def test_fp16_on_a_cpu_is_one_sentence(inside: Path, tiny_base: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("for machines without CUDA")
    with pytest.raises(ParamsError, match=r"training\.precision must be fp32 or bf16 on a CPU, got fp16"):
        trained(parameters(tiny_base, training={"precision": "fp16"}))


def test_bf16_with_a_lighter_opponent_still_starts_at_log_2_to_the_bit(inside: Path, tiny_base: Path) -> None:
    _, curve = trained(parameters(tiny_base, training={"precision": "bf16"}))
    assert curve[0]["error_real_change"] == 0.0, "the opponent predicts what the player does"
    assert curve[0]["loss"] == LOG_2
    assert curve[-1]["loss"] != LOG_2


def test_a_frozen_network_keeps_its_products_in_half_the_memory_and_its_predictions_to_the_bit() -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(4, 8, 3), torch.nn.GroupNorm(2, 8), torch.nn.SiLU(), torch.nn.Linear(6, 6)
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)  # norms too: their weights of one would not show a rounding
    lighter = copy.deepcopy(network)
    store_products_in(lighter, torch.bfloat16)
    kept = [parameter.dtype for parameter in lighter.parameters()]
    assert kept == [torch.bfloat16] * 2 + [torch.float32] * 2 + [torch.bfloat16] * 2
    x_t = torch.randn(2, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert torch.equal(network(x_t), lighter(x_t))


def test_gradient_checkpointing_changes_nothing_but_memory(
    inside: Path, tiny_base: Path, plain: dict[str, torch.Tensor]
) -> None:
    checkpointed, _ = trained(parameters(tiny_base, training={"gradient_checkpointing": True}))
    assert_same(plain, checkpointed)


@pytest.mark.slow
def test_compiling_leaves_the_names_of_the_weights(
    inside: Path, tiny_base: Path, plain: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[torch.nn.Module] = []

    def traced(
        network: torch.nn.Module,
    ) -> None:  # the tracer without the code generator, which takes minutes
        compiled.append(network)
        network._compiled_call_impl = torch.compile(network._call_impl, backend="eager")  # type: ignore[assignment]

    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    weights, curve = trained(parameters(tiny_base, training={"compile": True}))
    assert len(compiled) == 2, "player and opponent"
    assert curve[0]["loss"] == LOG_2
    assert weights.keys() == plain.keys()
    assert differ(weights, plain) < 1e-5


class Memory:
    """A device that holds so many rows: above them the network's call runs out of memory."""

    def __init__(self, rows: int, from_call: int = 0) -> None:
        self.rows, self.from_call, self.calls, self.seen = rows, from_call, 0, []
        self.original: Callable[..., torch.Tensor] = StableDiffusion.predict

    def predict(self, denoiser: torch.nn.Module, x_t: torch.Tensor, *rest: Any) -> torch.Tensor:
        self.calls += 1
        self.seen.append(len(x_t))
        if len(x_t) > self.rows and self.calls > self.from_call:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.original(denoiser, x_t, *rest)


def test_auto_finds_the_micro_batch_that_fits_and_keeps_the_batch(
    inside: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_ones, curve = trained(parameters(tiny_base, training={"micro_batch_size": 1}))
    memory = Memory(rows=3)  # a pair is two rows
    monkeypatch.setattr(StableDiffusion, "predict", staticmethod(memory.predict))
    found, found_curve = trained(parameters(tiny_base, training={"micro_batch_size": "auto"}))
    assert_same(found, by_ones)
    assert found_curve == curve
    assert read_json(Path("outputs/training/iter1.json"))["micro_batch_size"] == 1
    assert memory.seen[:2] == [8, 4], "from the whole batch down by halves"
    assert set(memory.seen[3:]) == {2}, "what was found stays"


def test_memory_that_runs_out_in_the_middle_of_an_update_counts_nothing_twice(
    inside: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_twos, _ = trained(parameters(tiny_base, training={"micro_batch_size": 2}))
    by_ones, _ = trained(parameters(tiny_base, training={"micro_batch_size": 1}))
    memory = Memory(rows=2, from_call=3)  # auto starts at 4 pairs; the first update goes through one call
    monkeypatch.setattr(
        spin.training.setup.MicroBatch, "of", lambda *_: spin.training.loop.MicroBatch(2, True)
    )
    monkeypatch.setattr(StableDiffusion, "predict", staticmethod(memory.predict))
    found, _ = trained(parameters(tiny_base, training={"micro_batch_size": "auto"}))
    assert memory.seen[:4] == [4] * 4, "two calls of the first half went well and left a gradient"
    assert_same(found, by_ones)
    assert differ(found, by_twos) < 1e-4


def test_without_auto_running_out_of_memory_is_one_sentence(
    inside: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StableDiffusion, "predict", staticmethod(Memory(rows=2).predict))
    sentence = r"training\.micro_batch_size must fit into memory, but it ran out with 4 at a time; lower it"
    with pytest.raises(ParamsError, match=sentence):
        trained(parameters(tiny_base))


class Scaled(Accelerator):
    """fp16's loss scaling on the CPU, where accelerate leaves it out; the products stay in fp32."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
        self.native_amp = True

    @property
    def mixed_precision(self) -> str:
        return "fp16"

    def autocast(self, *_: Any, **__: Any) -> Any:
        return torch.autocast("cpu", enabled=False)


@pytest.mark.parametrize(("scale", "overflows"), [(2.0**10, 0), (2.0**127, 3)])
def test_an_overflowing_update_is_tried_again_at_a_lower_scale(
    inside: Path,
    tiny_base: Path,
    plain: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    scale: float,
    overflows: int,
) -> None:
    monkeypatch.setattr(spin.stages.train, "make_accelerator", lambda _: Scaled(scale))
    scaled, scaled_curve = trained(parameters(tiny_base))
    record = read_json(Path("outputs/training/iter1.json"))
    assert record["overflows"] >= overflows
    assert (record["overflows"] > 0) == (overflows > 0)
    assert [row["step"] for row in scaled_curve] == [1, 2, 3, 4], "no update is lost"
    assert differ(plain, scaled) < 1e-5


def test_an_update_that_a_fused_optimizer_skips_is_tried_again_too(
    inside: Path, tiny_base: Path, plain: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    adamw = torch.optim.AdamW
    monkeypatch.setattr(
        torch.optim, "AdamW", lambda *given, **named: adamw(*given, **named | {"fused": True})
    )
    monkeypatch.setattr(spin.stages.train, "make_accelerator", lambda _: Scaled(2.0**127))
    scaled, curve = trained(parameters(tiny_base))
    assert read_json(Path("outputs/training/iter1.json"))["overflows"] >= 3
    assert [row["step"] for row in curve] == [1, 2, 3, 4]
    assert differ(plain, scaled) < 1e-5


def test_a_gradient_that_overflows_at_every_scale_stops_the_training(
    inside: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spin.stages.train, "make_accelerator", lambda _: Scaled(2.0**10))
    hook = torch.nn.Parameter.register_hook

    def poisoned(*arguments: Any, **named: Any) -> Networks:
        networks = make(*arguments, **named)
        hook(networks.trainable()[0], lambda grad: grad * float("inf"))
        return networks

    make = spin.training.setup.load_networks
    monkeypatch.setattr(spin.training.setup, "load_networks", poisoned)
    with pytest.raises(NonFiniteError, match="update 1 overflowed 20 times; it was not applied"):
        trained(parameters(tiny_base))


def test_the_average_is_what_is_saved(inside: Path, tiny_base: Path) -> None:
    start = load_file(tiny_base / "unet" / "diffusion_pytorch_model.safetensors")
    one_step = {"iter1": {"num_steps": 1}}
    last, _ = trained(parameters(tiny_base, iterations=one_step))
    average, _ = trained(parameters(tiny_base, iterations=one_step, training={"ema_decay": 0.75}))
    for name, tensor in start.items():
        torch.testing.assert_close(average[name], 0.75 * tensor + 0.25 * last[name], rtol=0, atol=1e-6)


def test_previews_are_drawn_and_change_no_bit(inside: Path, tiny_base: Path) -> None:
    changes = {"lora": LORA, "ema_decay": 0.5}
    without, _ = trained(parameters(tiny_base, training=changes))
    assert not Path("outputs/previews/iter1").exists()
    with_previews, _ = trained(parameters(tiny_base, training={**changes, "preview_every": 2}))
    assert_same(without, with_previews)
    drawn = sorted(Path("outputs/previews/iter1").iterdir())
    assert [path.name for path in drawn] == ["step-000002.png", "step-000004.png"]
    assert drawn[0].read_bytes() != drawn[1].read_bytes(), "the player has moved"


def test_a_preview_that_fails_is_a_warning(
    inside: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError("no space left")

    plain, _ = trained(parameters(tiny_base, training={"ema_decay": 0.5}))
    monkeypatch.setattr(spin.stages.preview, "sample_images", failing)
    weights, _ = trained(parameters(tiny_base, training={"ema_decay": 0.5, "preview_every": 1}))
    assert_same(plain, weights)
    assert "no preview at update 1 (no space left); training goes on." in caplog.text


def test_the_random_reference_is_a_function_of_the_update_and_visits_all() -> None:
    networks = [torch.nn.Identity() for _ in range(3)]
    plan = IterationParams(prev="base", learning_rate=1e-3, num_steps=40, warmup_steps=0, beta=1.0)
    first, again = (reference_of_update(networks, plan, 0, "iter3") for _ in range(2))
    drawn = [first(step) for step in range(40)]
    assert [id(again(step)) for step in range(40)] == [id(network) for network in drawn]
    assert {id(network) for network in drawn} == {id(network) for network in networks}
    other_seed = [reference_of_update(networks, plan, 1, "iter3")(step) for step in range(40)]
    assert [id(network) for network in other_seed] != [id(network) for network in drawn]


@pytest.mark.parametrize(
    "training",
    [{}, {"lora": LORA, "ema_decay": 0.9, "optimizer": "adafactor"}],
    ids=["full", "lora-ema-adafactor"],
)
def test_a_run_interrupted_at_any_update_ends_where_an_unbroken_one_does(
    inside: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, training: dict[str, Any]
) -> None:
    params = parameters(tiny_base, training=training)
    unbroken, curve = trained(params)
    after = spin.stages.train.AfterUpdate.__call__
    for last in (1, 3):

        def killed(self: Any, report: Any, last: int = last) -> None:
            after(self, report)
            if self.state.step == last:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(spin.stages.train.AfterUpdate, "__call__", killed)
            with pytest.raises(KeyboardInterrupt):
                run_train(params, "iter1")
        resumed, resumed_curve = trained(params)
        assert_same(unbroken, resumed)
        assert resumed_curve == curve


@pytest.mark.slow
def test_kill_9_of_a_lora_training_with_an_average_ends_where_an_unbroken_one_does(
    inside: Path, tiny_base: Path
) -> None:
    training = {"lora": LORA, "ema_decay": 0.9, "checkpoint_every": 3}
    write_params(
        inside, raw_parameters(tiny_base, training=training, iterations={"iter1": {"num_steps": 40}})
    )
    checkpoint, command = inside / "outputs/checkpoints/iter1", [sys.executable, "-m", "spin", "train"]
    command += ["--name", "iter1"]
    environment = {**os.environ, "SPIN_TRACKING": "off"}
    subprocess.run(command, cwd=inside, env=environment, check=True, capture_output=True)
    unbroken = sha256_tree(checkpoint)
    process = subprocess.Popen(command, cwd=inside, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(inside.glob(".spin/work/train-iter1-*/state.pt")):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    rerun = subprocess.run(command, cwd=inside, env=environment, check=True, capture_output=True, text=True)
    assert "resuming from its step checkpoint at update" in rerun.stderr
    assert sha256_tree(checkpoint) == unbroken


def launch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a stage in two processes over gloo. `accelerate launch --cpu` would leave that to mpirun, or start one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--master_addr", "127.0.0.1", "--master_port", str(port), "-m", "spin", *arguments]
    environment = {**os.environ, "SPIN_TRACKING": "off", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.mark.slow
def test_two_processes_train_as_one_does(inside: Path, tiny_base: Path) -> None:
    write_params(inside, raw_parameters(tiny_base, training={"micro_batch_size": "auto"}))
    alone, curve = trained(parameters(tiny_base))
    before = set(Path(".spin/work").glob("train-iter1-*"))  # of the tests of trainings that fail
    launch(inside, "train", "--name", "iter1")
    (weights,) = Path("outputs/checkpoints/iter1").glob("*/*.safetensors")
    assert differ(load_file(weights), alone) < 1e-5
    both = pd.read_csv("outputs/curves/iter1.csv")
    assert list(both["step"]) == [row["step"] for row in curve]
    for name in ("loss", "error_real", "error_gen", "grad_norm"):
        assert list(both[name]) == pytest.approx([row[name] for row in curve], rel=1e-3)
    record = read_json(Path("outputs/training/iter1.json"))
    assert (record["processes"], record["micro_batch_size"]) == (2, 2)
    left = set(Path(".spin/work").glob("train-iter1-*")) - before
    assert not left, "finished, and nobody writes on"
