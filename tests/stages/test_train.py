"""Properties of a training stage, on a tiny real model, from files to files."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from spin.cli import main
from spin.errors import DataError, ModelError, NonFiniteError, ParamsError
from spin.params.schema import Params
from spin.runtime.files import sha256_tree
from spin.stages.sample import run_opponents
from spin.stages.train import run_train
from spin.training.steps import denoise
from tests.models.tiny import miniature_params, write_params


def parameters(base: Path, **iteration: object) -> Params:
    raw = miniature_params(base)
    raw["iterations"]["iter1"] |= iteration
    return Params.model_validate(raw)


def unet_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "unet" / "diffusion_pytorch_model.safetensors")


def test_the_first_update_starts_at_log_2_and_training_moves_the_player_only(
    inside: Path, tiny_base: Path
) -> None:
    base_before = sha256_tree(tiny_base)
    curve = run_train(parameters(tiny_base), "iter1")
    assert curve[0]["loss"] == pytest.approx(0.693147, abs=1e-6)
    assert curve[0]["error_real_change"] == 0.0
    assert [row["step"] for row in curve] == [1, 2, 3, 4]
    assert sha256_tree(tiny_base) == base_before, "the opponent's bytes never change"
    trained = unet_of(Path("outputs/checkpoints/iter1"))
    start = load_file(tiny_base / "unet" / "diffusion_pytorch_model.safetensors")
    assert trained.keys() == start.keys()
    assert any(not torch.equal(trained[name], start[name]) for name in start)


def test_the_reference_of_the_second_iteration_is_the_first(inside: Path, tiny_base: Path) -> None:
    params = parameters(tiny_base)
    run_train(params, "iter1")
    run_opponents(params, "iter2")
    curve = run_train(params, "iter2")
    assert curve[0]["loss"] == pytest.approx(0.693147, abs=1e-6), (
        "player and reference both start at iteration 1"
    )
    first, second = (unet_of(Path(f"outputs/checkpoints/{name}")) for name in ("iter1", "iter2"))
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_training_twice_gives_the_same_bits(inside: Path, tiny_base: Path) -> None:
    digests = set()
    for _ in range(2):
        run_train(parameters(tiny_base), "iter1")
        digests.add(
            (sha256_tree(Path("outputs/checkpoints/iter1")), Path("outputs/curves/iter1.csv").read_text())
        )
    assert len(digests) == 1


def test_the_micro_batch_does_not_change_the_method(inside: Path, tiny_base: Path) -> None:
    whole = run_train(parameters(tiny_base), "iter1")
    raw = miniature_params(tiny_base)
    raw["training"]["micro_batch_size"] = 1
    parts = run_train(Params.model_validate(raw), "iter1")
    for one, other in zip(whole, parts, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-3, abs=1e-5)
        assert other["error_real"] == pytest.approx(one["error_real"], rel=1e-3)


def test_baselines_use_the_same_trainer(inside: Path, tiny_base: Path) -> None:
    params = parameters(tiny_base)
    dpo = run_train(params, "dpo")
    assert dpo[0]["loss"] == pytest.approx(0.693147, abs=1e-6)
    sft = run_train(params, "sft")
    assert sft[0]["loss"] == pytest.approx(sft[0]["error_real"])
    assert "error_gen" not in sft[0]


@pytest.mark.slow
def test_kill_9_and_rerun_ends_where_an_unbroken_run_ends(
    inside: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A real process is killed between two step checkpoints and started again."""
    monkeypatch.setenv("SPIN_TRACKING", "off")
    caplog.set_level("INFO")
    raw = miniature_params(tiny_base)
    raw["iterations"]["iter1"] |= {"num_steps": 40}
    raw["training"]["checkpoint_every"] = 3
    write_params(inside, raw)
    checkpoint, curve = inside / "outputs/checkpoints/iter1", inside / "outputs/curves/iter1.csv"
    train = ["train", "--name", "iter1"]
    assert main(train) == 0
    unbroken = sha256_tree(checkpoint), curve.read_text()
    before = sha256_tree(checkpoint)

    command = [sys.executable, "-m", "spin", *train]
    process = subprocess.Popen(command, cwd=inside, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(inside.glob(".spin/work/train-iter1-*/state-*")):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert sha256_tree(checkpoint) == before, "a killed run leaves the finished output alone"

    assert main(train) == 0
    assert "resuming from its step checkpoint at update" in caplog.text
    assert (sha256_tree(checkpoint), curve.read_text()) == unbroken
    assert not list(inside.glob(".spin/work/train-iter1-*")), "what a finished stage needs no more is removed"
    write_params(inside, miniature_params(tiny_base))


def test_a_loss_that_is_not_finite_stops_before_the_optimizer_moves(inside: Path, tiny_base: Path) -> None:
    raw = miniature_params(tiny_base)
    raw["iterations"]["iter1"]["beta"] = 1e30
    raw["objective"]["function"] = "squared"  # of which the second update's margin is beyond fp32
    with pytest.raises(NonFiniteError, match="the update was not applied"):
        run_train(Params.model_validate(raw), "iter1")


def test_denoising_real_and_generated_together_equals_apart(inside: Path, tiny_base: Path) -> None:
    from spin.data.cache import Cache
    from spin.models.checkpoint import load_model
    from spin.training.batches import BatchSource, draw_batch
    from spin.training.examples import spin_training_set

    params = parameters(tiny_base)
    diffusion = load_model(Path("outputs/checkpoints/base"))
    cache = Cache(Path("outputs/cache"))
    training_set = spin_training_set(Path("outputs/data"), cache, Path("outputs/opponents/iter1"))
    training, schedule = params.training, diffusion.noise_schedule
    places = range(training.batch_size)
    source = BatchSource(training_set, diffusion, schedule, training, True, 0, "iter1", places)
    batch = draw_batch(source, 0)
    both = denoise(diffusion.predict, diffusion.denoiser, batch)
    real_alone = denoise(diffusion.predict, diffusion.denoiser, batch._replace(gen=None))
    torch.testing.assert_close(both.real, real_alone.real, rtol=1e-5, atol=1e-6)
    assert both.gen is not None
    assert batch.gen is not None
    assert torch.equal(batch.real.target, batch.gen.target), "a pair shares its noise"


def test_an_unknown_stage_is_refused(inside: Path, tiny_base: Path) -> None:
    with pytest.raises(ParamsError, match="there is no training stage named iter9"):
        run_train(parameters(tiny_base), "iter9")


def test_a_stage_whose_input_is_missing_says_which_to_run(
    tmp_path: Path, tiny_base: Path, monkeypatch
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    with pytest.raises((DataError, ModelError), match="run"):
        run_train(parameters(tiny_base), "iter1")
    assert not (tmp_path / "outputs/checkpoints/iter1").exists(), "nothing half-written"


def test_opponents_of_other_weights_are_refused(inside: Path, tiny_base: Path) -> None:
    """Iteration 1 is trained again after the opponents of iteration 2 were drawn."""
    run_train(parameters(tiny_base), "iter1")
    run_opponents(parameters(tiny_base), "iter2")
    run_train(parameters(tiny_base, learning_rate=3e-3), "iter1")
    with pytest.raises(DataError, match="must hold opponents drawn by iter1 as it is now"):
        run_train(parameters(tiny_base), "iter2")
