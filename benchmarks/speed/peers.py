"""The peers' way, written anew from what is published of it, on the libraries that they use.

`diffusion_dpo` is the training recipe of Diffusion-DPO's published script (Wallace et al. 2023): images are decoded by a
loader, and in every step the VAE and the text encoder encode the pair, both members go through player and reference
together, the frozen networks are in the training precision, the loss is read by the host, AdamW is not fused. Their networks
are counted here as `spin.runtime.meter` counts ours.
"""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator

from benchmarks.speed.subjects import Turns
from benchmarks.speed.workspace import ITERATION
from spin import paths
from spin.data.manifest import read_manifest
from spin.data.stored import open_stored
from spin.params.schema import Params
from spin.runtime.devices import DTYPES
from spin.runtime.meter import Ask, asked, count
from spin.runtime.threads import map_ordered
from spin.training.memory import is_out_of_memory

LOADERS = 8
"""Threads that decode images ahead, where the published launchers ask for up to 16 processes; a core is left for training."""


Example = tuple[torch.Tensor, str]
"""Two images, 6 channels in [-1, 1], and the caption."""


class Pairs:
    """The workspace's images; the loser is another image of the set, which costs the same."""

    def __init__(self, params: Params) -> None:
        from torchvision import transforms

        manifest = read_manifest(paths.DATA)
        self._rows = [
            row for frame in manifest.batches("image", "caption") for row in frame.to_dict("records")
        ]
        flip = [transforms.RandomHorizontalFlip()] if params.training.horizontal_flip else []
        self._transform = transforms.Compose(
            [
                transforms.Resize(params.resolution),
                transforms.CenterCrop(params.resolution),
                *flip,
                transforms.ToTensor(),
                transforms.Normalize([0.5], [0.5]),
            ]
        )
        self._dropout = params.training.caption_dropout

    def shuffled(self) -> Iterator[int]:
        """Rows, epoch after epoch."""
        while True:
            yield from torch.randperm(len(self._rows)).tolist()

    def load(self, index: int) -> Example:
        """Decode and transform a pair."""
        row, other = self._rows[index], self._rows[(index + 1) % len(self._rows)]
        images = [self._transform(open_stored(paths.DATA, each["image"])) for each in (row, other)]
        caption = "" if float(torch.rand(())) < self._dropout else str(row["caption"])
        return torch.cat(images), caption


class Recipe:
    """Diffusion-DPO's networks and one step of its training."""

    def __init__(self, params: Params) -> None:
        from diffusers import DDPMScheduler, DiffusionPipeline

        precision = params.training.precision
        self.dtype = DTYPES[precision]
        self.accelerator = Accelerator(mixed_precision="no" if precision == "fp32" else precision)
        device = self.accelerator.device
        self.pipe: Any = DiffusionPipeline.from_pretrained(base_folder(params), safety_checker=None)
        self.noise = DDPMScheduler.from_config(self.pipe.scheduler.config)
        self.player = self.pipe.unet.float().to(device).train()
        self.reference = type(self.player).from_config(self.player.config)
        self.reference.load_state_dict(self.player.state_dict())
        self.reference.to(device, self.dtype).requires_grad_(False).eval()
        for name in ("text_encoder", "text_encoder_2"):
            if getattr(self.pipe, name, None) is not None:
                getattr(self.pipe, name).to(device, self.dtype).requires_grad_(False)
        self.sdxl = hasattr(self.pipe, "text_encoder_2")
        self.pipe.vae.to(device, torch.float32 if self.sdxl else self.dtype).requires_grad_(False)
        if params.training.gradient_checkpointing:
            self.player.enable_gradient_checkpointing()
        plan, self.params = params.iterations[ITERATION], params
        self.beta = plan.beta
        chosen = params.training
        optimizer = torch.optim.AdamW(
            self.player.parameters(),
            lr=plan.learning_rate,
            betas=(chosen.adam_betas[0], chosen.adam_betas[1]),
            weight_decay=chosen.weight_decay,
            eps=chosen.adam_eps,
        )
        self.weights = self.player
        self.player, self.optimizer = self.accelerator.prepare(self.player, optimizer)

    def told(self, captions: list[str]) -> dict[str, Any]:
        """The denoiser's arguments of the captions, for both members of their pairs."""
        count(len(captions), "text")
        device = self.accelerator.device
        text = self.pipe.encode_prompt(
            prompt=captions, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        told = {"encoder_hidden_states": text[0].repeat(2, 1, 1)}
        if self.sdxl:
            side = float(self.params.resolution)
            sizes = torch.tensor([[side, side, 0.0, 0.0, side, side]], device=device)
            added = {"text_embeds": text[2].repeat(2, 1), "time_ids": sizes.repeat(2 * len(captions), 1)}
            told["added_cond_kwargs"] = added
        return told

    def step(self, pixels: torch.Tensor, captions: list[str], share: float) -> None:
        """Add the gradient of some pairs, pixels (B, 6, H, W), weighed by their share of the batch."""
        vae, device = self.pipe.vae, self.accelerator.device
        both = torch.cat(pixels.chunk(2, dim=1)).to(device, vae.dtype)
        with torch.no_grad():
            count(len(both), "encoder", both.shape[-1])
            latents = vae.encode(both).latent_dist.sample() * vae.config.scaling_factor
            told = self.told(captions)
        noise = torch.randn_like(latents.chunk(2)[0]).repeat(2, 1, 1, 1)
        times = torch.randint(0, 1000, (len(captions),), device=device).repeat(2)
        x_t = self.noise.add_noise(latents, noise, times).to(self.dtype)
        self._count(x_t, told, trained=True)
        with self.accelerator.autocast():
            prediction = self.player(x_t, times, **told).sample
            with torch.no_grad():
                self._count(x_t, told, trained=False)
                reference = self.reference(x_t, times, **told).sample
        real, gen = F.mse_loss(prediction.float(), noise.float(), reduction="none").mean((1, 2, 3)).chunk(2)
        frozen = F.mse_loss(reference.float(), noise.float(), reduction="none").mean((1, 2, 3))
        frozen_real, frozen_gen = frozen.chunk(2)
        inside = -0.5 * self.beta * ((real - gen) - (frozen_real - frozen_gen))
        loss = -F.logsigmoid(inside).mean()
        self.accelerator.backward(loss * share)
        loss.item(), (inside > 0).float().mean().item()  # into the progress bar, after every step

    def _count(self, x_t: torch.Tensor, told: dict[str, Any], trained: bool) -> None:
        tokens = told["encoder_hidden_states"].shape[1]
        asked[Ask("denoiser", x_t.shape[-1], tokens, trained)] += len(x_t)

    def update(self, pairs: int, examples: Iterator[Example], size: int) -> None:
        """One move of the optimizer after `pairs` pairs."""
        done = 0
        while done < pairs:
            part = list(islice(examples, min(size, pairs - done)))
            pixels = torch.stack([pixels for pixels, _ in part])
            self.step(pixels, [caption for _, caption in part], len(part) / pairs)
            done += len(part)
        self.accelerator.clip_grad_norm_(self.weights.parameters(), self.params.training.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def diffusion_dpo(params: Params, turns: Turns, variant: str) -> None:
    """Diffusion-DPO's training on the workspace's images, so many pairs at a time as an order says."""
    recipe, pairs = Recipe(params), Pairs(params)
    workers = min(LOADERS, max((os.cpu_count() or 1) - 1, 1))
    examples = (pair for _, pair in map_ordered(pairs.load, pairs.shuffled(), workers))
    while (order := turns.wait()) is not None:
        try:
            for _ in range(order.amount):
                recipe.update(params.training.batch_size, examples, order.size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            recipe.optimizer.zero_grad(set_to_none=True)
            turns.fail()
            continue
        turns.finish(order.amount * params.training.batch_size)


def base_folder(params: Params) -> Path:
    """The base in diffusers layout."""
    from spin.models.bases import find_base

    return find_base(params.base.model_dump()).folder
