"""The world's base model: a CLIP text encoder and a UNet trained together on web renditions, as theta_0 was on LAION.

Afterwards the text encoder is frozen like Stable Diffusion's; self-play trains the UNet alone.
"""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from spin.method.schedule import NoiseSchedule
from spin.tools.toy.tokenizer import MAX_LENGTH, vocabulary, write_tokenizer
from spin.tools.toy.vae import encode
from spin.toy.world import split_scenes

TEXT_WIDTH = 64
BATCH_SIZE = 64
PEAK_LEARNING_RATE = 1e-3
SCHEDULE_STEPS = 4500
"""Updates the one-cycle schedule is laid out for; training stops earlier, and the moving average stands for its tail."""
EMA_DECAY = 0.999
CAPTION_DROPOUT = 0.1


def new_unet() -> UNet2DConditionModel:
    """An untrained UNet of 2.4 million parameters on 8x8x4 latents."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(48, 96),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def new_text_encoder() -> CLIPTextModel:
    """An untrained two-layer CLIP text model, 64 wide."""
    tokens, _ = vocabulary()
    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        projection_dim=TEXT_WIDTH,
        bos_token_id=len(tokens) - 2,
        eos_token_id=len(tokens) - 1,
        pad_token_id=len(tokens) - 1,
    )
    return CLIPTextModel(config)


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule, epsilon prediction."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def train_base(
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    images: Tensor,
    scenes: Tensor,
    stops: Sequence[int],
    seed: int,
    on_step: Callable[[int, float], None],
) -> dict[int, Any]:
    """Train text encoder and UNet on uint8 images (N, 3, 32, 32) of the scenes (N,).

    Returns their moving averages after each number of updates in `stops`, as {"text_encoder", "unet"}; the last is the end.
    """
    num_steps = max(stops)
    kept: dict[int, Any] = {}
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    text_encoder, unet = new_text_encoder(), new_unet()
    networks = nn.ModuleDict({"text_encoder": text_encoder, "unet": unet})
    start = copy.deepcopy(networks.state_dict())
    average = AveragedModel(networks, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY), use_buffers=True)
    optimizer = torch.optim.AdamW(networks.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=1e-2)
    decay = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LEARNING_RATE, total_steps=max(num_steps, SCHEDULE_STEPS) + 1, pct_start=0.05
    )
    schedule = NoiseSchedule.from_scheduler_config(new_scheduler().config)
    mean, logvar = encode(vae, images)
    token_ids = tokenize(tokenizer, [scene.caption for scene in split_scenes()["train"]])
    empty_ids = tokenize(tokenizer, [""])
    for step in range(num_steps):
        rows = torch.randint(len(images), (BATCH_SIZE,), generator=generator)
        latents = mean[rows] + (0.5 * logvar[rows]).exp() * torch.randn(mean[rows].shape, generator=generator)
        x_0 = latents * vae.config.scaling_factor
        eps = torch.randn(x_0.shape, generator=generator)
        timesteps = torch.randint(schedule.num_train_timesteps, (BATCH_SIZE,), generator=generator)
        dropped = torch.rand(BATCH_SIZE, 1, generator=generator) < CAPTION_DROPOUT
        ids = torch.where(dropped, empty_ids, token_ids[scenes[rows]])
        states = text_encoder(ids).last_hidden_state
        eps_pred = unet(schedule.add_noise(x_0, eps, timesteps), timesteps, states).sample
        loss = F.mse_loss(eps_pred, eps)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        optimizer.step()
        decay.step()
        optimizer.zero_grad(set_to_none=True)
        average.update_parameters(networks)
        on_step(step + 1, loss.item())
        if step + 1 in stops:
            averaged: Any = copy.deepcopy(average.module).eval()
            _take_out(averaged, start, EMA_DECAY**step)
            kept[step + 1] = averaged
    return kept


@torch.no_grad()
def _take_out(averaged: nn.Module, start: dict[str, Tensor], share: float) -> None:
    """Remove from a moving average the share that its untrained start still has, as Adam corrects its moments."""
    if share < 1:
        for name, value in averaged.state_dict().items():
            if value.is_floating_point():
                value.sub_(share * start[name]).div_(1 - share)


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Captions -> token ids (N, 16), padded as Stable Diffusion pads."""
    batch = tokenizer(
        captions, padding="max_length", max_length=MAX_LENGTH, truncation=True, return_tensors="pt"
    )
    ids: Tensor = batch.input_ids
    return ids


def load_world_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write the world's tokenizer into `folder` and load it as transformers does."""
    write_tokenizer(folder)
    return CLIPTokenizer.from_pretrained(folder)


def save_pipeline(
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
    folder: Path,
) -> None:
    """Write a folder that `StableDiffusionPipeline.from_pretrained` loads; weights are safetensors."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
