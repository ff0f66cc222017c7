"""PickScore and the CLIP score: a Hugging Face CLIPModel and the cosine of its two embeddings.

Folder layout, for the tiny embedded model and the published ones alike:
    config.json          CLIPConfig (`hidden_act`, sizes, `vision_config.image_size`)
    model.safetensors    or pytorch_model.bin; the `position_ids` of old checkpoints are ignored
    vocab.json merges.txt  CLIPTokenizer
    scorer.json          optional: {"version": words}
"""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from spin.errors import ScoreError
from spin.rewards.base import TorchScorer, at_least_float32, check_batch, cosine
from spin.rewards.preprocess import clip_pixels, stack
from spin.rewards.weights import Source, load_strictly, read_state, weights_sha256, without_weights
from spin.runtime.meter import count

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
IGNORED = ("embeddings.position_ids",)  # buffers that transformers < 4.31 saved


class ClipScorer(TorchScorer):
    """CLIP score: cosine of caption and image embedding, without a scale and not clipped at zero (about 0.2).

    Radford et al. 2021, arXiv:2103.00020; pixels of `clip_pixels`, captions cut at 77 tokens.
    """

    published = "CLIP ViT-L/14"
    scale = "cosine"

    def __init__(self, source: Source, device: str, dtype: torch.dtype) -> None:
        path = source.need(*WEIGHTS)
        version = source.version(self.published)
        super().__init__(source.scorer, version, self.scale, weights_sha256(path), device, dtype)
        config = CLIPConfig.from_dict(source.json("config.json"))
        with without_weights():
            self.clip = CLIPModel(config)
        load_strictly(self.clip, read_state(path), path, IGNORED)
        self.clip.to(device=self.device, dtype=dtype).eval()
        self.image_size = int(config.vision_config.image_size)
        self.max_length = int(config.text_config.max_position_embeddings)
        self.tokenizer = clip_tokenizer(source)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Token ids (B, L); the padding is never read, as attention is causal and the first end token is pooled."""
        tokens = self.tokenizer(
            list(prompts), padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        )
        ids: Tensor = tokens["input_ids"]
        return ids.to(self.device)

    def embed_texts(self, prompts: Sequence[str]) -> Tensor:
        """Projected, not normalised caption embeddings, (B, D)."""
        features: Tensor = self.clip.get_text_features(input_ids=self.tokenize(prompts)).pooler_output
        return features

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Projected, not normalised image embeddings, (B, D)."""
        pixels = stack([clip_pixels(image, self.image_size) for image in images], self.device, self.dtype)
        features: Tensor = self.clip.get_image_features(pixel_values=pixels).pooler_output
        return features

    def score_and_embed(self, images: list[Image.Image], prompts: list[str]) -> tuple[Tensor, Tensor]:
        """What `score` gives, (B,), and the normalised image embeddings, (B, D); both float32 on the CPU, from one pass."""
        check_batch(self.name, images, prompts)
        count(len(images), f"scorer {self.name}")
        with torch.inference_mode():
            features = self.embed_images(images)
            scores = self.from_embeddings(self.embed_texts(prompts), features)
            unit = features.to(at_least_float32(features.dtype))
            unit = unit / unit.norm(dim=-1, keepdim=True)
        return scores.float().cpu(), unit.float().cpu()

    def raw(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """The scores, (B,)."""
        return self.from_embeddings(self.embed_texts(prompts), self.embed_images(images))

    def from_embeddings(self, texts: Tensor, images: Tensor) -> Tensor:
        """Cosines of caption and image embeddings, (B, D) and (B, D) -> (B,)."""
        return cosine(texts, images)


class PickScorer(ClipScorer):
    """PickScore: exp(logit_scale) times the cosine (about 21), as its paper and README have it.

    Kirstain et al. 2023, arXiv:2305.01569. Diffusion-DPO prints the bare cosine: divide by `logit_scale`.
    """

    published = "PickScore v1"
    scale = "exp(logit_scale) * cosine"

    @property
    def logit_scale(self) -> Tensor:
        """exp of the learned logit scale, about 100; ()."""
        scale: Tensor = self.clip.logit_scale.exp()
        return scale

    def from_embeddings(self, texts: Tensor, images: Tensor) -> Tensor:
        """Scaled cosines, (B,); a softmax over the images of one prompt gives the preference probabilities."""
        scores = super().from_embeddings(texts, images)
        return scores * self.logit_scale.to(scores.dtype)


def clip_tokenizer(source: Source) -> CLIPTokenizer:
    """Load vocab.json and merges.txt; raises `ScoreError` if they are missing or of something else."""
    vocab, merges = source.need("vocab.json"), source.need("merges.txt")
    try:
        lines = merges.read_text(encoding="utf-8").split("\n")
        pairs = [tuple(line.split()) for line in lines if line.strip() and not line.startswith("#version")]
        return CLIPTokenizer(vocab=source.json(vocab.name), merges=pairs)
    except (OSError, ValueError, TypeError) as error:
        raise ScoreError(
            f"{vocab} and {merges} must be a CLIP vocabulary ({error}); copy them again."
        ) from None
