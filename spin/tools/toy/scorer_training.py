"""How the tiny scorers are trained: contrastively on captions, then on preferences, each as its model was."""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPModel

from spin.rewards.base import cosine
from spin.rewards.image_reward import RewardBlip
from spin.tools.toy.scorer_data import Pool, draw_pairs

Encode = Callable[[Tensor], Tensor]
OnStep = Callable[[int, float], None]
Tokens = dict[str, Tensor]
"""Caption -> its ids (L,), or for BLIP its ids and attention mask (2, L)."""

BATCH, PAIRS = 64, 32
CONTRAST_LEARNING_RATE = 2e-3
PREFERENCE_LEARNING_RATE = 1e-3
BLIP_LEARNING_RATES = (1e-3, 5e-4)  # contrast, preference: its post-norm text encoder takes no more
MAX_LOGIT_SCALE = 100.0  # CLIP's clamp
RATING_WEIGHT = 0.3


def run_steps(
    parameters: Iterable[nn.Parameter],
    loss_of_step: Callable[[], Tensor],
    num_steps: int,
    peak_learning_rate: float,
    on_step: OnStep,
) -> None:
    """Minimise a loss for `num_steps` with AdamW, a short warm-up and a decay to zero."""
    trained = list(parameters)
    optimizer = torch.optim.AdamW(trained, lr=peak_learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    decay = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peak_learning_rate, total_steps=num_steps + 1, pct_start=0.1, cycle_momentum=False
    )
    for step in range(num_steps):
        loss = loss_of_step()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        decay.step()
        optimizer.zero_grad(set_to_none=True)
        on_step(step + 1, loss.item())


def contrastive_loss(
    image_features: Tensor, text_features: Tensor, negatives: Tensor, logit_scale: Tensor
) -> Tensor:
    """CLIP's symmetric loss (arXiv:2103.00020, Fig. 3) with captions of no image here as further negatives.

    All (B, D), not normalised; row i of `negatives` is one or two things away from caption i.
    """
    image = F.normalize(image_features, dim=-1)
    text = F.normalize(torch.cat([text_features, negatives]), dim=-1)
    logits = logit_scale.exp().clamp(max=MAX_LOGIT_SCALE) * image @ text.T  # (B, 2B)
    target = torch.arange(len(image))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits[:, : len(image)].T, target)) / 2


class ContrastiveBatches:
    """Batches of images, the captions of what they show, and neighbouring captions; no two images of one caption."""

    def __init__(self, pool: Pool, tokens: Tokens, generator: torch.Generator) -> None:
        self.pool, self.tokens, self.generator = pool, tokens, generator
        self.errors = pool.errors.tolist()
        self.rows = torch.tensor([row for row, caption in enumerate(pool.shown) if caption])

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """(rows (B,), tokens of the shown captions (B, ...), tokens of their neighbours (B, ...)).

        The neighbour of a wrong image is the caption it was drawn for; that of a right one, what a wrong image
        drawn for its caption shows.
        """
        drawn = self.rows[torch.randint(len(self.rows), (2 * BATCH,), generator=self.generator)].tolist()
        by_caption = {self.pool.shown[row]: row for row in drawn}
        rows = list(by_caption.values())[:BATCH]
        shown = torch.stack([self.tokens[self.pool.shown[row]] for row in rows])
        neighbours = torch.stack([self.tokens[self._neighbour(row)] for row in rows])
        return torch.tensor(rows), shown, neighbours

    def _neighbour(self, row: int) -> str:
        caption, k = divmod(row, self.pool.per_caption)
        if self.errors[row]:
            return self.pool.captions[caption]
        step = int(torch.randint(self.pool.per_caption, (1,), generator=self.generator))
        for shift in range(self.pool.per_caption):
            other = caption * self.pool.per_caption + (k + step + shift) % self.pool.per_caption
            if self.errors[other] and self.pool.shown[other]:
                return self.pool.shown[other]
        return self.pool.captions[caption - 1]


def contrast(
    parameters: Iterable[nn.Parameter],
    encode_image: Encode,
    encode_text: Encode,
    logit_scale: Tensor,
    batches: ContrastiveBatches,
    num_steps: int,
    on_step: OnStep,
    extra_loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    learning_rate: float = CONTRAST_LEARNING_RATE,
) -> None:
    """Train two encoders by `contrastive_loss`; `extra_loss` of (rows, image features) is added to it."""

    def loss() -> Tensor:
        rows, shown, neighbours = batches.draw()
        texts = encode_text(torch.cat([shown, neighbours]))
        images = encode_image(batches.pool.pixels(rows))
        total = contrastive_loss(images, texts[: len(rows)], texts[len(rows) :], logit_scale)
        return total + extra_loss(rows, images) if extra_loss else total

    run_steps(parameters, loss, num_steps, learning_rate, on_step)


def prefer(
    parameters: Iterable[nn.Parameter],
    score: Callable[[Tensor, Tensor], Tensor],
    pool: Pool,
    tokens: Tokens,
    content_weight: float,
    generator: torch.Generator,
    num_steps: int,
    on_step: OnStep,
    learning_rate: float = PREFERENCE_LEARNING_RATE,
) -> None:
    """Train `score` of (pixels (2B, ...), tokens (B, ...)) -> (2B,) by -log sigmoid(better - worse).

    For scaled cosines it is PickScore's and HPS's softmax over two images, for rewards ImageReward's loss.
    """

    def loss() -> Tensor:
        captions, better, worse = draw_pairs(pool, PAIRS, content_weight, generator)
        asked = torch.stack([tokens[pool.captions[index]] for index in captions.tolist()])
        first, second = score(pool.pixels(torch.cat([better, worse])), asked).chunk(2)
        return -F.logsigmoid(first - second).mean()

    run_steps(parameters, loss, num_steps, learning_rate, on_step)


def two_tower_score(encode_image: Encode, encode_text: Encode, logit_scale: Tensor) -> Callable[..., Tensor]:
    """The score `prefer` trains for a CLIP: clamped logit scale times cosine; captions are encoded once a pair."""

    def score(pixels: Tensor, asked: Tensor) -> Tensor:
        texts = encode_text(asked).repeat(2, 1)
        return logit_scale.exp().clamp(max=MAX_LOGIT_SCALE) * cosine(texts, encode_image(pixels))

    return score


def hf_encoders(clip: CLIPModel) -> tuple[Encode, Encode]:
    """(pixels -> features, ids -> features) of a Hugging Face CLIP."""
    return (
        lambda pixels: clip.get_image_features(pixel_values=pixels).pooler_output,
        lambda ids: clip.get_text_features(input_ids=ids).pooler_output,
    )


def rating_loss(head: nn.Module, pool: Pool) -> Callable[[Tensor, Tensor], Tensor]:
    """Mean squared error of the head's rating of normalised embeddings against 10 * (1 - severity)."""

    def loss(rows: Tensor, image_features: Tensor) -> Tensor:
        rating = head(F.normalize(image_features, dim=-1)).squeeze(-1)
        return RATING_WEIGHT * F.mse_loss(rating, 10 * (1 - pool.severity[rows]))

    return loss


def train_blip(
    blip: RewardBlip,
    pool: Pool,
    tokens: Tokens,
    content_weight: float,
    num_steps: tuple[int, ...],
    generator: torch.Generator,
    on_step: tuple[OnStep, ...],
) -> None:
    """BLIP's image-text contrast between the two encoders' first tokens, then ImageReward's preferences."""
    width = int(blip.text_encoder.config.hidden_size)
    projections = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width)])
    logit_scale = nn.Parameter(torch.tensor(2.66))

    def encode_image(pixels: Tensor) -> Tensor:
        embedded: Tensor = projections[0](blip.visual_encoder(pixel_values=pixels).last_hidden_state[:, 0])
        return embedded

    def encode_text(pairs: Tensor) -> Tensor:
        hidden = blip.text_encoder(input_ids=pairs[:, 0], attention_mask=pairs[:, 1], is_decoder=False)
        embedded: Tensor = projections[1](hidden.last_hidden_state[:, 0])
        return embedded

    def score(pixels: Tensor, asked: Tensor) -> Tensor:
        both = asked.repeat(2, 1, 1)
        rewards: Tensor = blip(pixels, both[:, 0], both[:, 1])
        return rewards

    batches = ContrastiveBatches(pool, tokens, generator)
    trained = [*blip.parameters(), *projections.parameters(), logit_scale]
    contrast(
        trained,
        encode_image,
        encode_text,
        logit_scale,
        batches,
        num_steps[0],
        on_step[0],
        learning_rate=BLIP_LEARNING_RATES[0],
    )
    prefer(
        blip.parameters(),
        score,
        pool,
        tokens,
        content_weight,
        generator,
        num_steps[1],
        on_step[1],
        BLIP_LEARNING_RATES[1],
    )
