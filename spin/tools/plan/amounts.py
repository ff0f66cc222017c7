"""Disk and memory of a plan, in GiB by what they hold."""

from spin.models.flops import NetworkCost
from spin.params.schema import Params
from spin.params.training import SftParams

GIB = 2**30
PNG_BYTES_PER_PIXEL = 1.7
"""Of a photograph; pictures with flat areas take less."""


def disk(
    params: Params,
    cost: NetworkCost,
    *,
    encoded: int,
    captions: int,
    opponents: int,
    evaluated: int,
    trainable: int,
) -> dict[str, float]:
    """What lies on disk of so many encoded images, training captions, opponents and images to be compared."""
    png = PNG_BYTES_PER_PIXEL * params.resolution**2
    posterior = 2 * 4 * cost.latents  # mean and log-variance in fp32
    posterior *= 2 if params.training.horizontal_flip else 1
    captions *= 1 + (params.training.tags.variants if params.training.tags else 0)
    models = len(params.iterations) + len(params.baselines)
    amounts = {
        "training images": encoded * png,
        "cache of latents and text": encoded * posterior + captions * 4 * cost.text,
        "opponents": opponents * (png + posterior),
        "checkpoints": models * 4 * trainable,
        "step checkpoint, while training": 3 * 4 * trainable if models else 0,
        "snapshots of a comparison, until it is recorded": _snapshots(params) * 4 * trainable,
        "evaluation images": evaluated * png,
    }
    return {name: amount / GIB for name, amount in amounts.items()}


def _snapshots(params: Params) -> int:
    """Checkpoints that the largest comparison keeps: at every point of both paths, and at the end of each."""
    of_each = [
        2 * (params.iterations[chosen.next].num_steps // chosen.every + 1)
        for chosen in params.continual.values()
    ]
    return max(of_each, default=0)


def memory(params: Params, cost: NetworkCost, trainable: int) -> dict[str, float]:
    """What one GPU holds while training."""
    training = params.training
    half = 4 if training.precision == "fp32" else 2
    pairs = 1 if training.micro_batch_size == "auto" else training.micro_batch_size
    # adafactor: rows and columns only
    states = {"adamw": 8, "adamw_8bit": 2, "adafactor": 0}[training.optimizer]
    amounts = {"optimizer state": states * trainable, "gradients": 4 * trainable}
    count = _references(params)
    frozen = f"opponents, {count} of them" if count > 1 else "opponent"
    if training.lora:
        amounts |= {"frozen network, shared by both sides": half * cost.parameters}
        amounts |= {"adapters": (1 + count) * 4 * trainable}
        if params.continual:
            amounts |= {"reference of a comparison, an adapter's network": half * cost.parameters}
    else:
        amounts |= {"player": 4 * cost.parameters}
        amounts |= {frozen: count * half * cost.parameters} if count else {}
        amounts |= {} if half == 4 else {"player's weights in half precision": half * cost.parameters}
    amounts |= {f"activations of {pairs} pair{'s' if pairs > 1 else ''}": 2 * pairs * cost.activations}
    return {name: amount / GIB for name, amount in amounts.items()}


def _references(params: Params) -> int:
    """Frozen reference networks held at once while weights move: one, or with SePPO's random one all that came before an
    iteration; none where its errors are computed before, but for supervised fine-tuning."""
    if params.training.reference_draws is not None:
        return int(any(isinstance(each, SftParams) for each in params.baselines.values()))
    if params.objective.reference == "previous":
        return 1
    return max((iterates_before(params, name) for name in params.iterations), default=1)


def iterates_before(params: Params, name: str) -> int:
    """The base and every iteration from it to the one before `name`."""
    prev, count = params.iterations[name].prev, 1
    while prev != "base":
        prev, count = params.iterations[prev].prev, count + 1
    return count
