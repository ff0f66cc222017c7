"""Make the embedded world's scorers from nothing: train them, write their folders, measure them on held-out scenes.

pickscore     CLIP with gelu, contrastive, then softmax over two images (as PickScore from CLIP ViT-H/14)
hps           the same contrastive CLIP in open_clip, then preferences with another seed and mix (as HPS v2)
image_reward  BLIP, image-text contrast, then -log sigmoid(better - worse); normalised by mean and std (as ImageReward)
clip          CLIP with quick_gelu, contrastive, an independent start; its image embedding also carries quality
aesthetic     the image half of that CLIP and a head on its embedding (as LAION's predictor on OpenAI's CLIP)
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import BertTokenizer

from spin.rewards.heads import AffineMlp
from spin.rewards.image_reward import HEAD_WIDTHS, MAX_LENGTH, RewardBlip
from spin.runtime.files import replacing_dir, write_json
from spin.seeding import derive_seed
from spin.tools.toy import scorer_models as models
from spin.tools.toy import scorer_training as training
from spin.tools.toy.base import load_world_tokenizer, tokenize
from spin.tools.toy.scorer_checks import measure
from spin.tools.toy.scorer_data import Pool, draw_pool
from spin.toy.world import split_scenes

Progress = Callable[[str, int, int, float], None]
"""Called with (what is trained, step, steps, loss)."""

PER_CAPTION = 64
"""Images drawn for each of the 512 training captions, half of them wrong."""
CONTENT_WEIGHTS = {"pickscore": 0.7, "hps": 0.5, "image_reward": 1.0}
"""Severity that one wrong thing is worth, in the preferences each scorer learns from."""
STEPS = {
    "contrast": 800,
    "pickscore": 1200,
    "hps": 1200,
    "clip": 1200,
    "blip_contrast": 400,
    "image_reward": 1000,
}
FAMILIES = ("preference", "clip", "image_reward")
"""What is trained together; each depends on the seed alone, not on what was trained before it."""


def build_scorers(
    out_dir: Path,
    seed: int,
    steps_scale: float = 1.0,
    progress: Progress = lambda *_: None,
    families: tuple[str, ...] = FAMILIES,
) -> dict[str, dict[str, object]]:
    """Train the scorers of `families` and write out_dir/NAME for each; return what `measure` found, by name.

    `steps_scale` multiplies the numbers of steps, and of images when below 1; the shipped ones have 1.0. About 20 minutes on one CPU core.
    """
    num_scenes = max(8, round(256 * min(1.0, steps_scale)))
    per_caption = max(4, round(PER_CAPTION * min(1.0, steps_scale)))
    pool = draw_pool(split_scenes()["train"], per_caption, derive_seed("scorer pool", seed))
    steps = {name: max(1, round(count * steps_scale)) for name, count in STEPS.items()}
    train = {"preference": _preference_family, "clip": _clip_family, "image_reward": _image_reward}
    quality = {}
    for family in families:
        with tempfile.TemporaryDirectory() as scratch:
            built = train[family](Path(scratch), pool, steps, seed, progress)
            for name in built:
                quality[name] = measure(name, Path(scratch) / name, num_scenes)
                with replacing_dir(out_dir / name) as folder:
                    for file in (Path(scratch) / name).iterdir():
                        (folder / file.name).write_bytes(file.read_bytes())
                    write_json(folder / "quality.json", quality[name])
    return quality


def _generator(seed: int, *purpose: str) -> torch.Generator:
    """Seed the initial weights for one purpose and return the generator of its draws."""
    torch.manual_seed(derive_seed("scorer weights", seed, *purpose))
    return torch.Generator().manual_seed(derive_seed("scorer draws", seed, *purpose))


def _clip_tokens(scratch: Path, pool: Pool) -> training.Tokens:
    captions = sorted({*pool.captions, *pool.shown} - {""})
    ids = tokenize(load_world_tokenizer(scratch / "tokenizer"), captions)
    return dict(zip(captions, ids, strict=True))


def _preference_family(
    scratch: Path, pool: Pool, steps: dict[str, int], seed: int, progress: Progress
) -> tuple[str, ...]:
    tokens = _clip_tokens(scratch, pool)
    generator = _generator(seed, "contrast")
    clip = models.new_clip("gelu")
    image, text = training.hf_encoders(clip)
    batches = training.ContrastiveBatches(pool, tokens, generator)
    on_step = _reporter("contrast", steps["contrast"], progress)
    training.contrast(clip.parameters(), image, text, clip.logit_scale, batches, steps["contrast"], on_step)

    open_clip = models.new_open_clip()
    open_clip.load_state_dict(models.to_open_clip(clip))
    for name, network, score in (
        ("pickscore", clip, training.two_tower_score(image, text, clip.logit_scale)),
        (
            "hps",
            open_clip,
            training.two_tower_score(open_clip.encode_image, open_clip.encode_text, open_clip.logit_scale),
        ),
    ):
        on_step = _reporter(name, steps[name], progress)
        weight, draws = CONTENT_WEIGHTS[name], _generator(seed, name)
        training.prefer(network.parameters(), score, pool, tokens, weight, draws, steps[name], on_step)
    models.save_clip(clip.eval(), scratch / "pickscore", f"embedded PickScore, seed {seed}")
    models.save_open_clip(open_clip.eval(), scratch / "hps", f"embedded HPS v2.0, seed {seed}")
    return "pickscore", "hps"


def _clip_family(
    scratch: Path, pool: Pool, steps: dict[str, int], seed: int, progress: Progress
) -> tuple[str, ...]:
    tokens = _clip_tokens(scratch, pool)
    generator = _generator(seed, "clip")
    clip, head = models.new_clip("quick_gelu"), AffineMlp(models.PROJECTION, HEAD_WIDTHS)
    image, text = training.hf_encoders(clip)
    batches = training.ContrastiveBatches(pool, tokens, generator)
    trained = [*clip.parameters(), *head.parameters()]
    on_step, rating = _reporter("clip", steps["clip"], progress), training.rating_loss(head, pool)
    training.contrast(trained, image, text, clip.logit_scale, batches, steps["clip"], on_step, rating)
    models.save_clip(clip.eval(), scratch / "clip", f"embedded CLIP, seed {seed}")
    models.save_aesthetic(clip, head, scratch / "aesthetic", f"embedded aesthetic V2, seed {seed}")
    return "clip", "aesthetic"


def _image_reward(
    scratch: Path, pool: Pool, steps: dict[str, int], seed: int, progress: Progress
) -> tuple[str, ...]:
    captions = sorted({*pool.captions, *pool.shown} - {""})
    words = {word: index for index, word in enumerate(models.bert_words())}
    batch = BertTokenizer(vocab=words)(captions, padding=True, truncation=True, max_length=MAX_LENGTH)
    pairs = torch.tensor([batch["input_ids"], batch["attention_mask"]]).transpose(0, 1)  # (N, 2, L)
    tokens = dict(zip(captions, pairs, strict=True))
    generator = _generator(seed, "image_reward")
    blip = models.new_blip()
    counts = (steps["blip_contrast"], steps["image_reward"])
    reporters = tuple(_reporter(name, steps[name], progress) for name in ("blip_contrast", "image_reward"))
    training.train_blip(blip, pool, tokens, CONTENT_WEIGHTS["image_reward"], counts, generator, reporters)
    blip.eval()
    rewards = _rewards(blip, pool, tokens)
    mean, std = float(rewards.mean()), float(rewards.std())
    models.save_blip(blip, scratch / "image_reward", f"embedded ImageReward, seed {seed}", mean, std)
    return ("image_reward",)


def _rewards(blip: RewardBlip, pool: Pool, tokens: training.Tokens) -> Tensor:
    """Rewards of every fifth training image for its caption, whose mean and spread normalise the score."""
    rewards = []
    with torch.inference_mode():
        for rows in torch.arange(0, len(pool.severity), 5).split(256):
            asked = torch.stack([tokens[pool.captions[row // pool.per_caption]] for row in rows.tolist()])
            rewards.append(blip(pool.pixels(rows), asked[:, 0], asked[:, 1]))
    return torch.cat(rewards)


def _reporter(name: str, num_steps: int, progress: Progress) -> training.OnStep:
    return lambda step, loss: progress(name, step, num_steps, loss)
