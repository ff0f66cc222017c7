"""The peers' way, written anew from what is published of it, on the libraries that they use.

`diffusion_dpo` is the training recipe of Diffusion-DPO's published script (Wallace et al. 2023): images are decoded by a
loader, and in every step the VAE and the text encoder encode the pair, both members go through player and reference
together, the frozen networks are in the training precision, the loss is read by the host, AdamW is not fused. `pipeline`
is diffusers' own. Their networks are counted here as `spin.runtime.meter` counts ours.
"""

import io
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.speed.subjects import Turns
from benchmarks.speed.workspace import ITERATION
from spin import paths
from spin.data.manifest import read_manifest
from spin.data.stored import open_stored
from spin.params.schema import Params
from spin.runtime.devices import DTYPES, process_state
from spin.runtime.meter import Ask, asked, count
from spin.sampling.sampler import make_sampler
from spin.seeding import generator_for
from spin.training.memory import is_out_of_memory

LOADERS = 8
"""Processes of the loader, as the published launchers ask for up to 16; one core is left for training."""


class Pairs(Dataset[Any]):
    """Two images, 6 channels in [-1, 1], and the caption; the loser is another image of the set, which costs the same."""

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

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        row, other = self._rows[index], self._rows[(index + 1) % len(self)]
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
        text = self.pipe.encode_prompt(list(captions), device, 1, False)
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

    def update(self, pairs: int, batches: Iterator[Any], size: int) -> None:
        """One move of the optimizer after `pairs` pairs."""
        done = 0
        while done < pairs:
            pixels, captions = next(batches)
            self.step(pixels, list(captions), size / pairs)
            done += size
        self.accelerator.clip_grad_norm_(self.weights.parameters(), self.params.training.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def diffusion_dpo(params: Params, turns: Turns, variant: str) -> None:
    """Diffusion-DPO's training on the workspace's images, so many pairs at a time as an order says."""
    import os

    recipe, pairs = Recipe(params), Pairs(params)
    loaders: dict[int, Iterator[Any]] = {}
    while (order := turns.wait()) is not None:
        if order.size not in loaders:
            while len(loaders) > 1:
                del loaders[next(iter(loaders))]
            loader: Any = DataLoader(
                pairs,
                order.size,
                shuffle=True,
                drop_last=True,
                num_workers=min(LOADERS, max((os.cpu_count() or 1) - 1, 1)),
                persistent_workers=True,
            )
            loaders[order.size] = chain.from_iterable(repeat(loader))
        try:
            for _ in range(order.amount):
                recipe.update(params.training.batch_size, loaders[order.size], order.size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            recipe.optimizer.zero_grad(set_to_none=True)
            turns.fail()
            continue
        turns.finish(order.amount * params.training.batch_size)
    loaders.clear()  # ends their processes


def pipeline(params: Params, turns: Turns, variant: str) -> None:
    """diffusers' pipeline on the captions of the workspace, each image encoded as PNG, so many a call as an order says."""
    from diffusers import DiffusionPipeline

    device, chosen = process_state().device, params.opponents
    pipe: Any = DiffusionPipeline.from_pretrained(
        base_folder(params), torch_dtype=DTYPES[chosen.precision], safety_checker=None
    ).to(device)
    pipe.scheduler = make_sampler(dict(pipe.scheduler.config), chosen)
    pipe.set_progress_bar_config(disable=True)
    captions = [
        str(caption) for frame in read_manifest(paths.DATA).batches("caption") for caption in frame["caption"]
    ]
    guided = 2 if chosen.guidance_scale > 1.0 else 1
    side = params.resolution // 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    tokens = pipe.tokenizer.model_max_length
    while (order := turns.wait()) is not None:
        try:
            for start in (
                start for _ in range(order.amount) for start in range(0, len(captions), order.size)
            ):
                part = captions[start : start + order.size]
                images = pipe(
                    part,
                    num_inference_steps=chosen.num_inference_steps,
                    guidance_scale=chosen.guidance_scale,
                    height=params.resolution,
                    width=params.resolution,
                    generator=[generator_for("pipeline", start, row) for row in range(len(part))],
                ).images
                for image in images:
                    _png(image)
                asked[Ask("denoiser", side, tokens)] += len(part) * guided * chosen.num_inference_steps
                count(len(part), "decoder", side)
                count(len(part) * guided, "text")
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            turns.fail()
            continue
        turns.finish(order.amount * len(captions))


def without_overlap(params: Params, turns: Turns, variant: str) -> None:
    """Our training, but the gradients are averaged parameter by parameter once the last backward pass has ended."""
    import torch.distributed as dist

    from benchmarks.speed.ours import set_up
    from spin.training.prefetch import Prefetch
    from spin.training.steps import micro_step

    state, recipe = set_up(params)
    device, processes, step = process_state().device, process_state().num_processes, 0
    accelerator = Accelerator()
    with Prefetch(recipe.draw_batch, 10**9, device) as draw_batch:
        while (order := turns.wait()) is not None:
            for _ in range(order.amount):
                batch, opponent = draw_batch(step), recipe.opponent_of(step)
                for part in batch.micro_batches(order.size):
                    share = part.num_rows / batch.num_rows

                    def backward(loss: torch.Tensor, last: bool, share: float = share) -> None:
                        accelerator.backward(loss * share)

                    with accelerator.autocast():
                        micro_step(
                            recipe.predict,
                            state.player,
                            opponent,
                            part.to(device),
                            recipe.objective,
                            backward,
                        )
                for parameter in state.trainable:
                    assert parameter.grad is not None
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= processes
                torch.nn.utils.clip_grad_norm_(state.trainable, recipe.max_grad_norm).item()
                state.optimizer.step()
                state.optimizer.zero_grad(set_to_none=True)
                step += 1
            turns.finish(order.amount * params.training.batch_size // processes)


def base_folder(params: Params) -> Path:
    """The base in diffusers layout."""
    from spin.models.bases import find_base

    return find_base(params.base.model_dump()).folder


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()
