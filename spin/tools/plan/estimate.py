"""The arithmetic of a plan: images, pairs, forwards, TFLOP, hours, disk and memory of every stage of a parameter file."""

from dataclasses import dataclass

from spin.method.exact import exact_forwards
from spin.models.flops import NetworkCost
from spin.params.sampling import SamplerParams
from spin.params.schema import Params

GIB = 2**30
PNG_BYTES_PER_PIXEL = 1.7
"""Of a photograph; pictures with flat areas take less."""


@dataclass(frozen=True)
class Work:
    """One kind of stage, summed over the run."""

    name: str
    images: int
    """Images encoded or drawn; for training, pairs."""
    forwards: int
    """Predictions of one sample by the denoiser; a backward pass is counted in `tflop` only."""
    tflop: float


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

    @property
    def tflop(self) -> float:
        """All of it."""
        return sum(item.tflop for item in self.work)


def make_plan(
    params: Params, cost: NetworkCost, images: int, evaluated: int, adapter_parameters: int
) -> Plan:
    """Count a whole run over `images` training images; every model draws `evaluated` images for evaluation.

    `adapter_parameters` is the size of the LoRA adapters; it counts only where the parameters ask for them.
    """
    trainable = adapter_parameters if params.training.lora else cost.parameters
    if not params.iterations and not params.baselines:
        trainable = 0  # published checkpoints are only evaluated
    work = [
        Work("encode images", images, 0, images * cost.encode),
        *_opponents(params, cost, images),
        *_training(params, cost),
        _evaluation(params, cost, evaluated),
    ]
    return Plan(
        images,
        [item for item in work if item.images],
        _disk(params, cost, images, evaluated, trainable),
        _memory(params, cost, trainable) if trainable else {},
        trainable,
    )


def forwards_per_image(sampler: SamplerParams) -> int:
    """Predictions for one image: two a step under classifier-free guidance."""
    return sampler.num_inference_steps * (2 if sampler.guidance_scale > 1.0 else 1)


def _opponents(params: Params, cost: NetworkCost, images: int) -> list[Work]:
    each = forwards_per_image(params.opponents)
    per_image = each * cost.forward + cost.decode
    per_image += cost.encode if params.opponents.latents == "reencode" else 0.0
    drawn = sum(images * _drawers(params, name) for name in params.iterations)
    return [Work("draw opponents", drawn, drawn * each, drawn * per_image)]


def _drawers(params: Params, name: str) -> int:
    """How many iterates draw an opponent for each caption of an iteration."""
    if params.opponents.drawn_by != "all_earlier":
        return 1
    prev, count = params.iterations[name].prev, 1
    while prev != "base":
        prev, count = params.iterations[prev].prev, count + 1
    return count


def _training(params: Params, cost: NetworkCost) -> list[Work]:
    """A pair costs four forwards (player and opponent on real and generated) and two backwards; SFT's images half.

    The exact objective costs six forwards and two backwards for every step of the chain.
    """
    works = []
    for name, stage in {**params.iterations, **params.baselines}.items():
        members = 1 if getattr(stage, "objective", "") == "sft" else 2
        pairs = stage.num_steps * params.training.batch_size
        forwards, backwards = 2 * members * pairs, members * pairs
        if name in params.iterations and params.objective.kind == "exact":
            steps = params.opponents.num_inference_steps
            backwards *= steps
            forwards = exact_forwards(pairs, steps) - 2 * backwards  # which counts a backward as two forwards
        works.append(
            Work(f"train {name}", pairs, forwards, forwards * cost.forward + backwards * cost.backward)
        )
    return works


def _evaluation(params: Params, cost: NetworkCost, evaluated: int) -> Work:
    each = forwards_per_image(params.evaluate)
    drawn = len(params.evaluate.models) * evaluated
    return Work("draw evaluation images", drawn, drawn * each, drawn * (each * cost.forward + cost.decode))


def _disk(params: Params, cost: NetworkCost, images: int, evaluated: int, trainable: int) -> dict[str, float]:
    png = PNG_BYTES_PER_PIXEL * params.resolution**2
    posterior = 2 * 4 * cost.latents  # mean and log-variance in fp32
    drawn = sum(images * _drawers(params, name) for name in params.iterations)
    models = len(params.iterations) + len(params.baselines)
    amounts = {
        "training images": images * png,
        "cache of latents and text": images * (posterior + 4 * cost.text),
        "opponents": drawn * (png + posterior),
        "checkpoints": models * 4 * trainable,
        "step checkpoint, while training": 3 * 4 * trainable if models else 0,
        "evaluation images": len(params.evaluate.models) * evaluated * png,
    }
    return {name: amount / GIB for name, amount in amounts.items()}


def _memory(params: Params, cost: NetworkCost, trainable: int) -> dict[str, float]:
    training = params.training
    half = 4 if training.precision == "fp32" else 2
    pairs = 1 if training.micro_batch_size == "auto" else training.micro_batch_size
    states = {"adamw": 8, "adamw_8bit": 2, "adafactor": 0}[
        training.optimizer
    ]  # adafactor: rows and columns only
    amounts = {"optimizer state": states * trainable, "gradients": 4 * trainable}
    if training.lora:
        amounts |= {"frozen network, shared by both sides": half * cost.parameters, "adapters": 8 * trainable}
    else:
        amounts |= {"player": 4 * cost.parameters, "opponent": half * cost.parameters}
        amounts |= {} if half == 4 else {"player's weights in half precision": half * cost.parameters}
    amounts |= {f"activations of {pairs} pair{'s' if pairs > 1 else ''}": 2 * pairs * cost.activations}
    return {name: amount / GIB for name, amount in amounts.items()}
