"""A small base in Stable Diffusion's layout, trained here on the pictures: a stand-in where there is no network.

Its parts are of the real classes, so everything that follows loads it as it would load Stable Diffusion; what it draws is no
better than minutes of training on a few dozen pictures make it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from examples.photographs.pictures import captions
from spin.method.schedule import NoiseSchedule
from spin.tools.toy.base import TEXT_WIDTH, new_scheduler, new_unet, save_pipeline
from spin.tools.toy.tokenizer import vocabulary, write_tokenizer
from spin.tools.toy.vae import encode, train_vae

MAX_LENGTH = 32
BATCH_SIZE = 16


def write_base(
    folder: Path,
    pictures: Path,
    resolution: int,
    vae_steps: int,
    unet_steps: int,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Train autoencoder, text encoder and UNet and write a folder that diffusers' pipelines load."""
    listed = pd.read_csv(pictures / "metadata.csv")
    images = torch.stack([_read(pictures / name, resolution) for name in listed["file_name"]])
    words = sorted({word for caption in captions() for word in caption.replace(",", "").split()})
    write_tokenizer(folder / "tokenizer", words, MAX_LENGTH)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    vae = train_vae(images, vae_steps, 0, on_step)
    text_encoder, unet = _new_text_encoder(len(vocabulary(words)[0])), new_unet()
    networks = nn.ModuleList([text_encoder, unet])
    _train(networks, vae, images, _tokens(tokenizer, listed["text"].tolist()), unet_steps, on_step)
    save_pipeline(vae, text_encoder.eval(), tokenizer, unet.eval(), folder)


def _train(
    networks: nn.ModuleList,
    vae: nn.Module,
    images: Tensor,
    token_ids: Tensor,
    num_steps: int,
    on_step: Callable[[int, float], None],
) -> None:
    """Text encoder and UNet together, as Stable Diffusion's were not: there is no CLIP that knows these words."""
    text_encoder, unet = networks
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(networks.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = NoiseSchedule.from_scheduler_config(new_scheduler().config)
    config: Any = vae.config
    latents = encode(vae, images)[0] * config.scaling_factor  # (N, 4, resolution / 4, resolution / 4)
    for step in range(num_steps):
        rows = torch.randint(len(images), (BATCH_SIZE,), generator=generator)
        x_0, eps = latents[rows], torch.randn(latents[rows].shape, generator=generator)
        timesteps = torch.randint(schedule.num_train_timesteps, (BATCH_SIZE,), generator=generator)
        states = text_encoder(token_ids[rows]).last_hidden_state
        eps_pred = unet(schedule.add_noise(x_0, eps, timesteps), timesteps, states).sample
        loss = F.mse_loss(eps_pred, eps)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        on_step(step + 1, loss.item())


def _new_text_encoder(tokens: int) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=tokens,
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_LENGTH,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokens - 2,
            eos_token_id=tokens - 1,
            pad_token_id=tokens - 1,
        )
    )


def _tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    batch = tokenizer(
        texts, padding="max_length", max_length=MAX_LENGTH, truncation=True, return_tensors="pt"
    )
    ids: Tensor = batch.input_ids
    return ids


def _read(path: Path, resolution: int) -> Tensor:
    """The middle square, (3, resolution, resolution) uint8."""
    with Image.open(path) as image:
        square = ImageOps.fit(image.convert("RGB"), (resolution, resolution), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)
