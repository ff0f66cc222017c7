"""The scorers that come with the project, by name; light to import, unlike the scorers."""

from pathlib import Path

ENTRY_POINT_GROUP = "spin.scorers"
"""A user's own scorer: an entry point names a callable (source: str | None, device: str, dtype) -> Scorer."""
BUILT_IN = ("pickscore", "hps", "hps_v21", "image_reward", "aesthetic", "aesthetic_v1", "clip")
WITHOUT_PROMPTS = ("aesthetic", "aesthetic_v1")
"""They look at the image alone."""
ORACLES = ("oracle_psnr", "oracle_attributes")
DIVERSITY = "diversity"
"""Column beside the scores: how far apart a model's images of one prompt are. Of a prompt, and no score."""
EMBEDDED = Path(__file__).parents[1] / "toy" / "assets" / "scorers"
"""Where the embedded ones' weights lie, a folder each."""

# File name in the scorer's layout: (hub repository, file there).
HUB: dict[str, dict[str, tuple[str, str]]] = {
    "pickscore": {
        "config.json": ("yuvalkirstain/PickScore_v1", "config.json"),
        "model.safetensors": ("yuvalkirstain/PickScore_v1", "model.safetensors"),
        "vocab.json": ("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "vocab.json"),
        "merges.txt": ("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "merges.txt"),
    },
    "hps": {"HPS_v2_compressed.pt": ("xswu/HPSv2", "HPS_v2_compressed.pt")},
    "hps_v21": {"HPS_v2.1_compressed.pt": ("xswu/HPSv2", "HPS_v2.1_compressed.pt")},
    "image_reward": {
        "ImageReward.pt": ("zai-org/ImageReward", "ImageReward.pt"),
        "med_config.json": ("zai-org/ImageReward", "med_config.json"),
        "vocab.txt": ("google-bert/bert-base-uncased", "vocab.txt"),
    },
    "aesthetic": {
        "config.json": ("openai/clip-vit-large-patch14", "config.json"),
        "model.safetensors": ("openai/clip-vit-large-patch14", "model.safetensors"),
        "aesthetic-model.pth": ("trl-lib/ddpo-aesthetic-predictor", "aesthetic-model.pth"),
    },
    "clip": {
        "config.json": ("openai/clip-vit-large-patch14", "config.json"),
        "model.safetensors": ("openai/clip-vit-large-patch14", "model.safetensors"),
        "vocab.json": ("openai/clip-vit-large-patch14", "vocab.json"),
        "merges.txt": ("openai/clip-vit-large-patch14", "merges.txt"),
    },
}
