"""How fast this machine trains, draws, encodes and scores with the real base: a few steps of each, timed."""

import gc
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from spin import paths
from spin.errors import ParamsError, ScoreError
from spin.models.checkpoint import load_to_draw
from spin.models.conditioning import Conditioning, expand_rows, square_geometry, to_device
from spin.models.flops import NetworkCost
from spin.models.latent_diffusion import LatentDiffusion
from spin.models.reference import MODEL_FILE, read_reference
from spin.params.sampling import SamplerParams
from spin.params.schema import Params
from spin.rewards.loading import load_scorer
from spin.runtime.devices import DTYPES, process_state
from spin.runtime.flops import TERA
from spin.runtime.gauges import device_name, product_rate, synchronise
from spin.runtime.meter import asked
from spin.sampling.sampler import Guidance, sample_latents
from spin.tools.plan.estimate import AUTOENCODER, drawing_part, scorer_part, training_part
from spin.training.memory import is_out_of_memory
from spin.training.precision import make_accelerator
from spin.training.setup import set_up_networks

logger = logging.getLogger(__name__)

REPEATS, ENOUGH_SECONDS = 3, 10.0
"""Each kind of step is timed so often, or until that long."""
STEPS_DRAWN = 3
PAIRS_TRIED = 8
"""Pairs at a time under `micro_batch_size: auto`, which halves them until they fit."""


@dataclass(frozen=True)
class Machine:
    """What was measured."""

    device: str
    rates: dict[str, tuple[float, float | None]] = field(default_factory=dict)
    """Part of the work -> its TFLOP/s, and those of matrix products in the same precision where both were measured."""
    missing: list[str] = field(default_factory=list)
    """Scorers that are not at hand."""

    @property
    def missing_line(self) -> str:
        """What stands for what could not be measured."""
        if not self.missing:
            return ""
        return f"Not at hand, so taken to be as fast as the autoencoder: {', '.join(self.missing)}."


def measure_rates(
    params: Params, parts: set[str], cost: NetworkCost, scorers: Mapping[str, float | None]
) -> Machine:
    """Time a few steps of each of the `parts` of the work, in one process on one device; the base is loaded for it."""
    device = process_state().device
    machine, products = Machine(device_name(device)), {}

    def note(part: str, precision: str, rate: float) -> None:
        if precision not in products:
            products[precision] = product_rate(device, DTYPES[precision]) / TERA
        machine.rates[part] = rate, products[precision]

    # Drawing, with the text that training is told too; what only drawing needs goes before training comes.
    for sampler in (params.opponents, params.evaluate):
        diffusion = load_to_draw(paths.CHECKPOINTS / "base", device, sampler)
        text, empty = (to_device(diffusion.encode_prompts([prompt]), "cpu") for prompt in ("a picture", ""))
        if (part := drawing_part(sampler)) in parts and part not in machine.rates:
            rate = _drawing_rate(diffusion, text, empty, sampler, params.resolution, cost)
            note(part, sampler.precision, rate)
        if AUTOENCODER not in machine.rates:
            note(AUTOENCODER, "fp32", _autoencoder_rate(diffusion, sampler, params.resolution, cost))
        del diffusion
        _let_go()

    # Training and scoring.
    if (part := training_part(params)) in parts:
        note(part, params.training.precision, _training_rate(params, text, cost))
        _let_go()
    for name, tflop in scorers.items():
        if tflop and scorer_part(name) in parts:
            scored = _scorer_rate(params, name, tflop, device)
            if scored is None:
                machine.missing.append(name)
                machine.rates[scorer_part(name)] = machine.rates[AUTOENCODER][0], None
            else:
                note(scorer_part(name), "fp32", scored)
    return machine


def check_base(params: Params) -> None:
    """Raise `ParamsError` where the base is not recorded yet, or another one is."""
    base = paths.CHECKPOINTS / "base"
    if not (base / MODEL_FILE).is_file():
        raise ParamsError(
            f"--measure must have the base, but {base} is not there; run `spin base` first, or plan without it."
        )
    if (found := read_reference(base)["source"]) != params.base.source:
        raise ParamsError(
            f"--measure must have the base {params.base.source}, but {base} is {found}; run `spin base` with these "
            "parameters first, or plan without it."
        )


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    """Of one call, after one that loads and compiles."""
    run()
    synchronise(device)
    started, calls, taken = time.perf_counter(), 0, 0.0
    while calls < REPEATS and taken < ENOUGH_SECONDS:
        run()
        synchronise(device)
        calls, taken = calls + 1, time.perf_counter() - started
    return taken / calls


def _drawing_rate(
    diffusion: LatentDiffusion,
    text: Conditioning,
    empty: Conditioning,
    sampler: SamplerParams,
    resolution: int,
    cost: NetworkCost,
) -> float:
    """TFLOP/s of a few steps of the sampler, on as many images at a time as it draws."""
    rows = sampler.batch_size
    few = sampler.model_copy(update={"num_inference_steps": min(STEPS_DRAWN, sampler.num_inference_steps)})
    guidance = Guidance(expand_rows(text, rows), empty, square_geometry(rows, resolution))
    generators = [torch.Generator().manual_seed(row) for row in range(rows)]

    def draw() -> None:
        sample_latents(diffusion, guidance, generators, few, resolution)

    before = asked.copy()
    draw()
    predictions = sum((asked - before).values())
    return predictions * cost.forward / _seconds(draw, diffusion.device)


def _autoencoder_rate(
    diffusion: LatentDiffusion, sampler: SamplerParams, resolution: int, cost: NetworkCost
) -> float:
    """TFLOP/s of decoding and encoding as many images at a time as are drawn."""
    rows = sampler.batch_size
    latents = torch.randn(rows, *diffusion.latent_shape(resolution))
    pixels = torch.rand(rows, 3, resolution, resolution) * 2 - 1

    def both() -> None:
        diffusion.decode_latents(latents.to(diffusion.device))
        diffusion.encode_images(pixels)

    return rows * (cost.decode + cost.encode) / _seconds(both, diffusion.device)


def _training_rate(params: Params, text: Conditioning, cost: NetworkCost) -> float:
    """TFLOP/s of a pair's forward and backward passes, player and reference; without the optimizer's step."""
    name = next(iter({**params.iterations, **params.baselines}))
    accelerator = make_accelerator(params.training)
    networks = set_up_networks(params, name, paths.CHECKPOINTS / "base", accelerator.device)
    auto = params.training.micro_batch_size == "auto"
    pairs = PAIRS_TRIED if auto else params.training.micro_batch_size
    while True:
        try:
            run = _update(networks, accelerator, text, 2 * int(pairs), params.resolution)
            return 2 * int(pairs) * (2 * cost.adapted + cost.backward) / _seconds(run, accelerator.device)
        except Exception as error:
            if not is_out_of_memory(error) or not auto or pairs == 1:
                raise
            pairs = int(pairs) // 2
            _let_go()


def _update(
    networks: Any, accelerator: Any, text: Conditioning, rows: int, resolution: int
) -> Callable[[], None]:
    """What the networks do for so many images in training."""
    diffusion, device = networks.diffusion, accelerator.device
    x_t = torch.randn(rows, *diffusion.latent_shape(resolution), device=device)
    schedule = diffusion.noise_schedule
    times = schedule.times(torch.full((rows,), schedule.num_train_timesteps // 2)).to(device)
    told = diffusion.with_geometry(expand_rows(text, rows), square_geometry(rows, resolution))
    told = to_device(told, device)
    networks.player.train()

    def update() -> None:
        with accelerator.autocast():
            with torch.no_grad():
                reference = diffusion.predict(networks.opponents[-1], x_t, times, told)
            prediction = diffusion.predict(networks.player, x_t, times, told)
            loss = (prediction.float() - reference.float()).square().mean()
        accelerator.backward(loss)
        networks.player.zero_grad(set_to_none=True)

    return update


def _scorer_rate(params: Params, name: str, tflop: float, device: torch.device) -> float | None:
    """TFLOP/s of a scorer from decoded images to scores, None where it cannot be loaded."""
    try:
        scorer = load_scorer(name, params.scorers[name].source, device=str(device))
    except ScoreError as error:
        logger.warning("%s is not measured: %s", name, error)
        return None
    rows = params.evaluate.batch_size
    images = [Image.effect_noise((params.resolution,) * 2, 90).convert("RGB")] * rows
    seconds = _seconds(lambda: scorer.score(images, ["a picture"] * rows), device)
    return rows * tflop / seconds


def _let_go() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
