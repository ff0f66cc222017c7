"""The two sides of a training stage: the player, which learns, and its frozen past selves, the opponents.

Trained whole, each side has weights of its own. With LoRA all sides share the frozen base, and each has its own adapter
over it (see `spin.models.lora`): the player starts at the adapter of the checkpoint `prev`, a fresh one over the
base, and the previous iterate is a frozen copy of exactly that. So player and reference predict the same, to the bit,
until the first update, at every iteration.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from spin.errors import ModelError
from spin.models.checkpoint import load_denoiser, load_model, weights_digest
from spin.models.digests import recorded_digest
from spin.models.latent_diffusion import LatentDiffusion
from spin.models.lora import add_adapter, check_continues, frozen_twin, load_adapter
from spin.models.reference import read_reference
from spin.params.training import LoraParams


@dataclass
class Networks:
    """What a training stage starts from; both sides give the same predictions until the first update."""

    diffusion: LatentDiffusion
    """The model around the player: its autoencoder is on the CPU, in fp32; it has no text encoders."""
    player: nn.Module
    """The denoiser to train; the weights that are trained are fp32."""
    opponents: list[nn.Module]
    """Frozen denoisers; the last one is the previous iterate."""

    def trainable(self) -> list[nn.Parameter]:
        """What the optimizer moves."""
        return [parameter for parameter in self.player.parameters() if parameter.requires_grad]


def load_networks(
    prev: Path,
    device: torch.device,
    lora: LoraParams | None = None,
    reference: Literal["previous", "random"] = "previous",
    base_dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Networks:
    """Set up a stage that continues from the checkpoint `prev`.

    Without `lora` the whole denoiser is trained (the adapter of a LoRA checkpoint is added to the weights first); with
    it an adapter is, drawn from the stream of `seed` if `prev` is the base, over frozen weights in `base_dtype`.
    With the reference `random` the opponents are all earlier iterates, from the base to `prev`, each of which costs
    the memory of a network or of an adapter. Raises `ModelError` if `lora` cannot continue from `prev`.
    """
    earlier = iterates_up_to(prev) if reference == "random" else [prev]

    # Whole networks: each side has weights of its own.
    if lora is None:
        diffusion = load_model(prev, with_text=False)
        player = diffusion.denoiser.float().requires_grad_(True)
        opponents = [load_denoiser(checkpoint, device) for checkpoint in earlier]
        return Networks(diffusion, player, [each.eval().requires_grad_(False) for each in opponents])

    # Adapters: all sides share the frozen base.
    for checkpoint in earlier:
        if not _is_base(checkpoint):
            check_continues(read_reference(checkpoint).get("lora"), lora, checkpoint)
    diffusion = load_model(prev, fuse=False, with_text=False)
    player = nn.Module.to(
        diffusion.denoiser, device, base_dtype
    )  # diffusers' own `to` warns of layers it has not
    add_adapter(player, lora, seed)
    opponents = []
    for checkpoint in earlier:  # `prev` comes last, and its adapter is where the player starts
        if not _is_base(checkpoint):
            load_adapter(player, checkpoint, read_reference(checkpoint)["lora"], diffusion.denoiser_folder)
        opponents.append(frozen_twin(player))
    return Networks(diffusion, player, opponents)


def iterates_up_to(checkpoint: Path) -> list[Path]:
    """The checkpoints from the base to this one, found beside it by the `prev` of each model.json.

    Raises `ModelError` if one is missing or was made again since the next one was trained from it.
    """
    iterates = [checkpoint]
    while not _is_base(iterates[0]):
        recorded = read_reference(iterates[0])["prev"]
        earlier = checkpoint.parent / str(recorded["checkpoint"])
        if weights_digest(earlier) != recorded_digest(recorded):
            raise ModelError(
                f"{earlier} must be the checkpoint from which {iterates[0].name} was trained, but it has other weights; "
                f"train {iterates[0].name} again."
            )
        iterates.insert(0, earlier)
    return iterates


def _is_base(checkpoint: Path) -> bool:
    return "base" not in read_reference(checkpoint)
