"""HPS v2.0 and v2.1: an open_clip model and the bare cosine of its two embeddings (about 0.27).

Wu et al. 2023, arXiv:2306.09341. The hpsv2 package scores with v2.0 and benchmarks with v2.1: here they are two
scorers, `hps` and `hps_v21`. Computed in float32; the original's fp16 autocast makes ties 2.4e-4 apart.

Folder layout:
    open_clip_config.json   {"model_cfg": ...}; absent: ViT-H-14
    model.safetensors       or the published HPS_v2_compressed.pt / HPS_v2.1_compressed.pt (key state_dict)
    bpe.txt.gz              merges of open_clip's tokenizer, or vocab.json and merges.txt of a CLIPTokenizer;
                            absent: open_clip's own 49408 tokens
    scorer.json             optional: {"version": words}
"""

from collections.abc import Callable, Sequence

import open_clip
import torch
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from torch import Tensor

from spin.errors import ScoreError
from spin.rewards.base import TorchScorer, cosine
from spin.rewards.clip import clip_tokenizer
from spin.rewards.preprocess import hps_pixels, stack
from spin.rewards.weights import Source, load_strictly, read_state, weights_sha256, without_weights

PUBLISHED_WEIGHTS = {"hps": "HPS_v2_compressed.pt", "hps_v21": "HPS_v2.1_compressed.pt"}
VERSIONS = {"hps": "HPS v2.0", "hps_v21": "HPS v2.1"}
ARCHITECTURE = "ViT-H-14"


class HpsScorer(TorchScorer):
    """Cosine of caption and image embedding, no logit scale; the benchmark prints it times 100."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype) -> None:
        path = source.need("model.safetensors", PUBLISHED_WEIGHTS[source.scorer])
        version = source.version(VERSIONS[source.scorer])
        super().__init__(source.scorer, version, "cosine", weights_sha256(path), device, dtype)
        with without_weights():
            self.model = build_open_clip(source)
        load_strictly(self.model, read_state(path), path)
        self.model.to(device=self.device, dtype=dtype).eval()
        size = self.model.visual.image_size
        self.image_size = int(size[0] if isinstance(size, tuple) else size)
        self.tokenizer = open_clip_tokenizer(source, int(self.model.context_length))

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Token ids (B, context_length); cut captions keep their end token, which is what is pooled."""
        return self.tokenizer(list(prompts)).to(self.device)

    def raw(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """Cosines, (B,)."""
        pixels = stack([hps_pixels(image, self.image_size) for image in images], self.device, self.dtype)
        return cosine(self.model.encode_text(self.tokenize(prompts)), self.model.encode_image(pixels))


def build_open_clip(source: Source | None) -> CLIP:
    """The open_clip model that the folder's configuration describes, ViT-H-14 without one; weights are random."""
    if source is None or "open_clip_config.json" not in source.files:
        config = open_clip.get_model_config(ARCHITECTURE)
    else:
        config = source.json("open_clip_config.json").get("model_cfg")
    try:
        return CLIP(**config)
    except (TypeError, KeyError) as error:
        raise ScoreError(
            f"open_clip_config.json must hold an open_clip model_cfg with embed_dim, vision_cfg and text_cfg ({error});"
            " copy it from the model's repository."
        ) from None


def open_clip_tokenizer(source: Source, context_length: int) -> Callable[[list[str]], Tensor]:
    """The tokenizer whose files the folder holds, or open_clip's own; texts -> (B, context_length) ids."""
    if "vocab.json" in source.files:
        tokenizer = clip_tokenizer(source)

        def tokenize(texts: list[str]) -> Tensor:
            tokens = tokenizer(
                texts, padding="max_length", truncation=True, max_length=context_length, return_tensors="pt"
            )
            return torch.as_tensor(tokens["input_ids"])

        return tokenize
    bpe = source.get("bpe.txt.gz")
    own = {"bpe_path": str(bpe)} if bpe else {}
    packaged: Callable[[list[str]], Tensor] = SimpleTokenizer(context_length=context_length, **own)
    return packaged
