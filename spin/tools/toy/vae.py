"""The world's autoencoder: a real AutoencoderKL, 32x32x3 pixels to 8x8x4 latents."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from spin.tools.toy.pool import to_pixel_values

KL_WEIGHT = 1e-5  # on the mean over elements: keeps the posterior narrow without costing reconstruction
BATCH_SIZE = 32


def new_vae() -> AutoencoderKL:
    """An untrained autoencoder with a quarter million parameters."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 32),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=32,
    )


def vae_loss(vae: AutoencoderKL, pixel_values: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return (loss, mean squared error) of a batch (B, 3, 32, 32) in [-1, 1]."""
    posterior = vae.encode(pixel_values).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator)
    reconstruction = vae.decode(posterior.mean + posterior.std * noise).sample
    squared = F.mse_loss(reconstruction, pixel_values)
    kl = 0.5 * (posterior.mean.square() + posterior.var - 1.0 - posterior.logvar).mean()
    return squared + 0.1 * F.l1_loss(reconstruction, pixel_values) + KL_WEIGHT * kl, squared


def train_vae(
    images: Tensor, num_steps: int, seed: int, on_step: Callable[[int, float], None]
) -> AutoencoderKL:
    """Train on uint8 images (N, 3, 32, 32) and set `scaling_factor` to one over the raw latents' deviation."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    vae = new_vae()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=num_steps + 1, pct_start=0.05)
    for step in range(num_steps):
        rows = torch.randint(len(images), (BATCH_SIZE,), generator=generator)
        loss, squared = vae_loss(vae, to_pixel_values(images[rows]), generator)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        on_step(step + 1, squared.item())
    vae.eval()
    mean, logvar = encode(vae, images[: min(len(images), 4096)])
    noise = torch.randn(mean.shape, generator=generator)
    vae.register_to_config(scaling_factor=round(1.0 / (mean + (0.5 * logvar).exp() * noise).std().item(), 5))
    return vae


@torch.inference_mode()
def encode(vae: AutoencoderKL, images: Tensor, batch_size: int = 256) -> tuple[Tensor, Tensor]:
    """uint8 images (N, 3, 32, 32) -> posterior (mean, logvar), each (N, 4, 8, 8), not scaled."""
    means, logvars = [], []
    for batch in images.split(batch_size):
        posterior = vae.encode(to_pixel_values(batch)).latent_dist
        means.append(posterior.mean)
        logvars.append(posterior.logvar)
    return torch.cat(means), torch.cat(logvars)
