"""The arithmetic of a plan: images, pairs, forwards, TFLOP, hours, disk and memory of every stage of a parameter file.

With F, B the cost of one prediction and of its backward pass (in training with the adapters, where there are any, and with
no gradient for frozen weights), V and D of encoding and decoding an image, S steps of a sampler, g = 2 under guidance or 1:

    encode     V (2 V with mirrored images) for each training image, and for each winner and loser of Diffusion-DPO
    draw       g S F + D; an opponent that is encoded again costs V (2 V mirrored) more
    train      4 F + 2 B a pair: player and frozen reference, each on real and generated; the exact objective K times
               6 F + 2 B for K steps; with M reference draws a pair the frozen reference runs 2 F at the first M visits of
               a pair alone; supervised fine-tuning F + B an image, and F more in the updates that measure it
    continual  two trainings of the next iteration's length, and 1 + 2 (updates / every) drawings of its prompt set
    score      what each scorer costs an image, for all images of models, reference levels and comparisons
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from spin.method.exact import exact_forwards
from spin.models.flops import NetworkCost
from spin.params.sampling import SamplerParams
from spin.params.schema import Params
from spin.params.training import IterationParams, SftParams, StageParams
from spin.tools.plan.amounts import disk, iterates_before, memory
from spin.training.reference_errors import updates_with_new_draws
from spin.training.setup import SFT_MEASURED_EVERY


@dataclass(frozen=True)
class Counts:
    """What a plan is made for, besides the parameters."""

    images: int
    """Training images, one for each caption."""
    rows: int
    """Of an epoch with an opponent an image: each image as often as it is repeated."""
    pair_images: int
    """Winners and losers of Diffusion-DPO's pairs; at most so many before the data stage has counted them."""
    pairs: int
    """Diffusion-DPO's pairs."""
    prompts: Mapping[str, int]
    """Prompts of each prompt set that is drawn."""
    adapters: int
    """Parameters of the LoRA adapters; counts only where the parameters ask for them."""
    scorers: Mapping[str, float | None]
    """TFLOP of scoring one image; None for a scorer whose cost is not known, which is left out."""

    @property
    def encoded(self) -> int:
        """Images that pass the encoder: training images are among the winners."""
        return max(self.images, self.pair_images)


@dataclass(frozen=True)
class Work:
    """One kind of stage, summed over the run."""

    name: str
    images: int
    """Images encoded, drawn or scored; for training, pairs."""
    forwards: int
    """Predictions of one sample by the denoiser; a backward pass is counted in `parts` only."""
    parts: Mapping[str, float]
    """TFLOP by what does it, each of which has a speed of its own: `training in bf16` or another precision, `drawing in
    fp16`, `autoencoder`, `scorer NAME`."""
    reference: int = 0
    """Those of the forwards that are the frozen reference network's."""
    one_gpu: bool = False
    """Whether it runs in one process, however many GPUs there are: the comparisons."""

    @property
    def tflop(self) -> float:
        """All of it."""
        return sum(self.parts.values())


AUTOENCODER = "autoencoder"


def scorer_part(name: str) -> str:
    """A scorer among the parts of a work."""
    return f"scorer {name}"


def drawing_part(sampler: SamplerParams) -> str:
    """The denoiser of a sampler among the parts of a work."""
    return f"drawing in {sampler.precision}"


def training_part(params: Params) -> str:
    """Both networks in training among the parts of a work."""
    return f"training in {params.training.precision}"


def in_fp32(part: str) -> bool:
    """Whether its products are in float32, which a GPU does far slower: the autoencoder's and the scorers' always."""
    return part == AUTOENCODER or part.startswith("scorer ") or part.endswith(" fp32")


@dataclass(frozen=True)
class Plan:
    """What a run asks for."""

    images: int
    """Training images."""
    work: list[Work]
    disk: dict[str, float]
    """GiB by kind of file."""
    memory: dict[str, float]
    """GiB on one GPU while training, by what it holds, empty if nothing trains; an estimate: fragmentation and temporary
    buffers come on top."""
    trainable: int
    """Parameters that are trained."""
    not_counted: list[str]
    """Scorers whose cost is not known."""

    @property
    def tflop(self) -> float:
        """All of it."""
        return sum(item.tflop for item in self.work)


def make_plan(params: Params, cost: NetworkCost, counts: Counts) -> Plan:
    """Count a whole run."""
    trainable = counts.adapters if params.training.lora else cost.parameters
    if not params.iterations and not params.baselines:
        trainable = 0  # published checkpoints are only evaluated
    sets = {name: counts.prompts[name] for name in params.evaluate.prompt_sets}
    of_each = sum(prompts * params.evaluate_on(name).images_per_prompt for name, prompts in sets.items())
    compared = len(params.evaluate.models) * of_each
    # Levels: drawn by nobody, an image a prompt, and scored like any.
    rendered = len(params.evaluate.references) * sum(sets.values())
    work = [
        Work("encode images", counts.encoded, 0, {AUTOENCODER: counts.encoded * ways(params) * cost.encode}),
        *_opponents(params, cost, counts.images),
        *_training(params, cost, counts),
        _draw(cost, "draw evaluation images", params.evaluate, compared),
        *_scoring(counts, compared + rendered),
        *_continual(params, cost, counts),
    ]
    return Plan(
        counts.images,
        [item for item in work if item.images],
        disk(
            params,
            cost,
            encoded=counts.encoded,
            captions=counts.images,
            opponents=_opponents_drawn(params, counts.images),
            evaluated=compared + rendered,
            trainable=trainable,
        ),
        memory(params, cost, trainable) if trainable else {},
        trainable,
        [name for name, tflop in counts.scorers.items() if tflop is None],
    )


def ways(params: Params) -> int:
    """How often an image is encoded: once, or as it is and mirrored."""
    return 2 if params.training.horizontal_flip else 1


def forwards_per_image(sampler: SamplerParams) -> int:
    """Predictions for one image: two a step under classifier-free guidance."""
    return sampler.num_inference_steps * (2 if sampler.guidance_scale > 1.0 else 1)


def _opponents(params: Params, cost: NetworkCost, images: int) -> list[Work]:
    drawn = _opponents_drawn(params, images)
    again = ways(params) * cost.encode if params.opponents.latents == "reencode" else 0.0
    return [_draw(cost, "draw opponents", params.opponents, drawn, again)]


def _opponents_drawn(params: Params, images: int) -> int:
    return sum(images * _drawers(params, name) for name in params.iterations)


def _drawers(params: Params, name: str) -> int:
    """How many iterates draw an opponent for each caption of an iteration."""
    return iterates_before(params, name) if params.opponents.drawn_by == "all_earlier" else 1


def _training(params: Params, cost: NetworkCost, counts: Counts) -> list[Work]:
    rows = {name: counts.rows * _drawers(params, name) for name in params.iterations}
    stages: dict[str, StageParams] = {**params.iterations, **params.baselines}
    return [
        _trained(params, cost, f"train {name}", stage, [rows.get(name, counts.pairs)])
        for name, stage in stages.items()
    ]


def _trained(params: Params, cost: NetworkCost, label: str, stage: StageParams, rows: list[int]) -> Work:
    """A stage trained on each of these numbers of rows: the player's forwards and backwards, the reference's forwards."""
    batch, draws = params.training.batch_size, params.training.reference_draws
    pairs = len(rows) * stage.num_steps * batch
    if isinstance(stage, SftParams):
        backwards = player = pairs
        reference = len(rows) * len(range(0, stage.num_steps, SFT_MEASURED_EVERY)) * batch
    elif draws is not None:
        updates = [updates_with_new_draws(stage.num_steps, batch, each, draws) for each in rows]
        backwards = player = 2 * pairs
        reference = 2 * batch * sum(updates)
    else:
        backwards = player = reference = 2 * pairs
    if isinstance(stage, IterationParams) and params.objective.kind == "exact":
        steps = params.opponents.num_inference_steps
        backwards = reference = 2 * steps * pairs
        player = (
            exact_forwards(pairs, steps) - 2 * backwards - reference
        )  # which has a backward as two forwards
    forwards = player + reference
    tflop = forwards * cost.adapted + backwards * cost.backward
    return Work(label, pairs, forwards, {training_part(params): tflop}, reference)


def _continual(params: Params, cost: NetworkCost, counts: Counts) -> list[Work]:
    """Both paths of every comparison, and the points at which they draw and score."""
    work = []
    for name, chosen in params.continual.items():
        images = _continual_images(params, counts, name)
        rows = [counts.rows * _drawers(params, each) for each in (chosen.finished, chosen.next)]
        scored = {scorer_part(scorer): images * tflop for scorer, tflop in counts.scorers.items() if tflop}
        work += [
            _trained(params, cost, f"continual {name}: train", params.iterations[chosen.next], rows),
            _draw(cost, f"continual {name}: draw", params.evaluate, images),
            Work(f"continual {name}: score", images, 0, scored),
        ]
    return [replace(item, one_gpu=True) for item in work]


def _continual_images(params: Params, counts: Counts, name: str) -> int:
    """The common start, and every so many updates of either path."""
    chosen = params.continual[name]
    points = 1 + 2 * (params.iterations[chosen.next].num_steps // chosen.every)
    return points * counts.prompts[chosen.prompts] * params.evaluate_on(chosen.prompts).images_per_prompt


def _draw(cost: NetworkCost, label: str, sampler: SamplerParams, images: int, again: float = 0.0) -> Work:
    """Images drawn and decoded, each of which costs `again` TFLOP more if it is encoded."""
    each = images * forwards_per_image(sampler)
    parts = {drawing_part(sampler): each * cost.forward, AUTOENCODER: images * (cost.decode + again)}
    return Work(label, images, each, parts)


def _scoring(counts: Counts, images: int) -> list[Work]:
    return [
        Work(f"score by {name}", images, 0, {scorer_part(name): images * tflop})
        for name, tflop in counts.scorers.items()
        if tflop  # an oracle runs no network
    ]
