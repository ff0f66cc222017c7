"""A tiny Stable Diffusion with random weights, of the real classes, and a miniature project around it."""

import shutil
from pathlib import Path
from typing import Any

import torch
import yaml

ROOT = Path(__file__).resolve().parents[2]


def write_tiny_base(folder: Path, seed: int = 0) -> None:
    """Save a pipeline of a few ten thousand parameters in diffusers layout: 32x32 pixels, 8x8x4 latents."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from spin.tools.toy.base import load_world_tokenizer, save_pipeline
    from spin.tools.toy.tokenizer import MAX_LENGTH, vocabulary

    torch.manual_seed(seed)
    tokens, _ = vocabulary()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokens),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=MAX_LENGTH,
            eos_token_id=len(tokens) - 1,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 8, 8),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
    )
    tokenizer = load_world_tokenizer(folder.parent / "tokenizer-source")
    save_pipeline(vae, text_encoder, tokenizer, unet, folder)


def miniature_params(base: Path) -> dict[str, Any]:
    """The embedded profile at a size that trains in seconds: one pair of iterations, one baseline of each kind, one prompt set."""
    raw: dict[str, Any] = yaml.safe_load((ROOT / "profiles" / "toy.yaml").read_text())
    raw["base"]["source"] = str(base)
    raw["prompt_sets"] = {"test": raw["prompt_sets"]["test"]}
    raw["data"] |= {"num_train": 12, "num_val": 2, "num_test": 4}
    raw["opponents"] |= {"num_inference_steps": 2, "batch_size": 4, "shard_size": 4}
    raw["training"] |= {"batch_size": 4, "micro_batch_size": 4, "checkpoint_every": 1}
    iteration = {"learning_rate": 1e-3, "num_steps": 4, "warmup_steps": 0, "beta": 100.0}
    raw["iterations"] = {"iter1": {"prev": "base", **iteration}, "iter2": {"prev": "iter1", **iteration}}
    raw["baselines"]["sft"] |= {"num_steps": 3}
    raw["baselines"]["dpo"] |= {"num_steps": 3}
    raw["evaluate"] |= {
        "models": ["base", "sft", "dpo", "iter1", "iter2"],
        "prompt_sets": ["test"],
        "num_inference_steps": 2,
        "batch_size": 4,
    }
    raw["tables"] |= {"bootstrap_samples": 200, "grid_prompts": 2}
    return raw


def write_params(folder: Path, raw: dict[str, Any]) -> None:
    """Write params.yaml into a project folder."""
    (folder / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")


def copy_project(folder: Path, raw: dict[str, Any]) -> None:
    """Make `folder` a DVC project with this repository's pipeline, code and other parameters."""
    for name in ("spin", "dvc.yaml", ".dvcignore"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    write_params(folder, raw)
