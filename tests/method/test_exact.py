"""Properties of the exact objective, on a small random network in float64."""

import math
import weakref
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from spin.errors import NonFiniteError, ParamsError
from spin.method.exact import (
    MAX_FLOP,
    OVERRIDE,
    PredictEps,
    Trajectories,
    draw_chain_noise,
    draw_trajectories,
    exact_forwards,
    exact_gradient,
    real_trajectory,
    require_affordable,
    step_errors,
)
from spin.method.functions import FUNCTIONS, FunctionName, pair_loss
from spin.method.losses import beta_on_summed_norm
from spin.method.schedule import NoiseSchedule
from spin.method.transitions import Transitions

SD = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
SHAPE = (2, 4, 4)
SCHEDULE = NoiseSchedule.from_scheduler_config(SD)


class TinyDenoiser(nn.Module):
    """A random network that knows its timestep."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.inner, self.outer = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, x_t: Tensor, time: float) -> Tensor:
        """(B, 2, H, W) at time in [0, 1] -> (B, 2, H, W)."""
        clock = torch.full_like(x_t[:, :1], time)
        out: Tensor = self.outer(torch.tanh(self.inner(torch.cat([x_t, clock], 1))))
        return out


def predictor(denoiser: nn.Module, chain: Transitions) -> PredictEps:
    return lambda x_t, step: denoiser(x_t, chain.timesteps[step].item() / 1000)


def chain_of(steps: int) -> Transitions:
    return Transitions.of_sampler(SCHEDULE, SD, steps)


def game(
    steps: int = 6, pairs: int = 4, shared: bool = False
) -> tuple[nn.Module, nn.Module, Transitions, Trajectories]:
    """A player, its opponent, the chain and both trajectories of a few pairs."""
    player, opponent = TinyDenoiser(0).double(), TinyDenoiser(1).double()
    chain = chain_of(steps)
    generator = torch.Generator().manual_seed(7)
    x_0 = torch.randn(pairs, *SHAPE, generator=generator, dtype=torch.float64)
    noise = torch.randn(2, steps + 1, pairs, *SHAPE, generator=generator, dtype=torch.float64)
    drawn = draw_trajectories(predictor(opponent, chain), x_0, noise[0], noise[0 if shared else 1], chain)
    return player, opponent, chain, drawn


def whole_loss(
    player: nn.Module, chain: Transitions, drawn: Trajectories, beta: float, function: FunctionName
) -> Tensor:
    """The loss with all steps in one graph."""
    changes = [
        step_errors(predictor(player, chain), drawn, chain, step).change for step in range(len(chain.s))
    ]
    real, gen = torch.stack(changes).mean(0).chunk(2)
    return pair_loss(gen - real, beta, function).mean()


def gradients(denoiser: nn.Module) -> list[Tensor]:
    found = [parameter.grad for parameter in denoiser.parameters() if parameter.grad is not None]
    assert len(found) == 4
    return found


def backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def test_loss_is_log_2_when_the_player_equals_the_opponent_and_pulls() -> None:
    _, opponent, chain, drawn = game()
    result = exact_gradient(predictor(opponent, chain), drawn, chain, 5000.0, "logistic", backward)
    assert result.loss.item() == pytest.approx(math.log(2), abs=1e-12)
    assert (result.margin == 0).all()
    assert any(gradient.abs().max() > 0 for gradient in gradients(opponent))


def test_the_margin_is_the_papers_sum_over_means_of_the_chain() -> None:
    """beta / 2 * margin = -sum_t lambda / (2 s_t^2) D_t with every mu, s and norm written out."""
    player, opponent, chain, drawn = game(shared=True)
    beta, size = 3.0, math.prod(SHAPE)
    result = exact_gradient(predictor(player, chain), drawn, chain, beta, "logistic", backward)
    weight = 2 * beta_on_summed_norm(beta, size) / 2  # beta / (2 C H W)
    alphas = [SCHEDULE.alphas_cumprod[timestep] for timestep in chain.timesteps] + [
        SCHEDULE.alphas_cumprod[0]
    ]
    total, weights = torch.zeros(4, dtype=torch.float64), 0.0
    for step, (alpha, below) in enumerate(pairwise(alphas)):
        s2 = (1 - below) / (1 - alpha) * (1 - alpha / below)
        h = (below / alpha).sqrt() * (1 - alpha).sqrt() - (1 - below - s2).sqrt()
        weights += (h**2 / (2 * s2)).item()
        x_t, x_below = drawn.latents[step], drawn.latents[step + 1]

        def norm(
            denoiser: nn.Module,
            x_t: Tensor = x_t,
            x_below: Tensor = x_below,
            alpha: Tensor = alpha,
            below: Tensor = below,
            s2: Tensor = s2,
            step: int = step,
        ) -> Tensor:
            eps = predictor(denoiser, chain)(x_t, step)
            mu = (
                below.sqrt() * (x_t - (1 - alpha).sqrt() * eps) / alpha.sqrt() + (1 - below - s2).sqrt() * eps
            )
            return (x_below - mu).square().sum((1, 2, 3)).detach()

        real, gen = (norm(player) - norm(opponent)).chunk(2)
        total += (real - gen) / (2 * s2)  # D_t / (2 s_t^2)
    torch.testing.assert_close(0.5 * beta * result.margin, -weight / weights * total, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_two_passes_give_the_gradient_of_the_whole_sum(function: FunctionName) -> None:
    player, _, chain, drawn = game()
    beta = 0.5
    result = exact_gradient(predictor(player, chain), drawn, chain, beta, function, backward)
    loss = whole_loss(player, chain, drawn, beta, function)
    wanted = torch.autograd.grad(loss, list(player.parameters()))
    assert result.loss.item() == pytest.approx(loss.item(), rel=1e-12)
    for got, one in zip(gradients(player), wanted, strict=True):
        torch.testing.assert_close(got, one, rtol=1e-9, atol=1e-12)


def test_the_gradient_is_the_slope_of_the_loss() -> None:
    """Against finite differences of the reported loss, along a random direction in the weights."""
    player, _, chain, drawn = game()
    exact_gradient(predictor(player, chain), drawn, chain, 2.0, "logistic", backward)
    directions = [torch.randn_like(parameter) for parameter in player.parameters()]
    slope = sum((g * d).sum() for g, d in zip(gradients(player), directions, strict=True))

    def loss_at(distance: float) -> float:
        moved = TinyDenoiser(0).double()
        with torch.no_grad():
            for parameter, direction in zip(moved.parameters(), directions, strict=True):
                parameter += distance * direction
        return exact_gradient(
            predictor(moved, chain), drawn, chain, 2.0, "logistic", lambda _: None
        ).loss.item()

    assert float(slope) == pytest.approx((loss_at(1e-5) - loss_at(-1e-5)) / 2e-5, rel=1e-6)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("beta", [0.1, 2.0, 10.0])
def test_the_approximate_objective_is_never_less_than_the_exact_one(
    function: FunctionName, beta: float
) -> None:
    """Jensen; the expectation over the timestep is taken by going through all of them."""
    player, _, chain, drawn = game(steps=8)
    exact = exact_gradient(predictor(player, chain), drawn, chain, beta, function, lambda _: None).loss
    terms = []
    for step in range(len(chain.s)):
        real, gen = step_errors(predictor(player, chain), drawn, chain, step).change.chunk(2)
        terms.append(pair_loss(gen - real, beta, function).mean())
    approximate = torch.stack(terms).mean()
    assert approximate >= exact - 1e-12
    if function == "correlation":
        assert approximate.item() == pytest.approx(exact.item()), "equal for a straight line"
    elif function != "hinge":
        assert approximate > exact * (1 + 1e-6)


def test_the_approximate_objective_on_the_chains_grid_has_the_same_scale() -> None:
    """With the weights of the chain, the mean over timesteps of the margin is the exact margin itself."""
    player, _, chain, drawn = game(steps=8)
    exact = exact_gradient(predictor(player, chain), drawn, chain, 1.0, "logistic", lambda _: None)
    margins = []
    for step in range(len(chain.s)):
        real, gen = step_errors(predictor(player, chain), drawn, chain, step).change.chunk(2)
        margins.append((gen - real).detach())
    torch.testing.assert_close(torch.stack(margins).mean(0), exact.margin)
    torch.testing.assert_close(exact.change_gen - exact.change_real, exact.margin)


def test_real_trajectories_have_the_marginals_of_the_forward_process() -> None:
    chain, rows = chain_of(5), 20000
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.full((rows, 1, 1, 1), 1.5, dtype=torch.float64)
    noise = torch.randn(6, rows, 1, 1, 1, generator=generator, dtype=torch.float64)
    levels = real_trajectory(x_0, noise, chain)
    for level, timestep in zip(levels, [*chain.timesteps.tolist(), 0], strict=True):
        signal, deviation = SCHEDULE.signal[timestep].item(), SCHEDULE.noise[timestep].item()
        assert level.mean().item() == pytest.approx(1.5 * signal, abs=4 * deviation / math.sqrt(rows))
        assert level.std().item() == pytest.approx(deviation, rel=0.03)


def test_every_level_of_the_chain_has_noise_of_its_own_and_the_start_is_the_forward_process() -> None:
    chain = chain_of(5)
    streams = [torch.Generator().manual_seed(seed) for seed in range(3)]
    noise = draw_chain_noise(streams, SHAPE, chain)
    assert noise.shape == (6, 3, *SHAPE)
    assert torch.equal(noise[0, 2], torch.randn(SHAPE, generator=torch.Generator().manual_seed(2)))
    assert noise.flatten().unique().numel() == noise.numel()
    x_0 = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(9))
    start = SCHEDULE.add_noise(x_0, noise[0], chain.timesteps[:1].expand(3))
    torch.testing.assert_close(real_trajectory(x_0, noise, chain)[0], start)


def test_the_reported_errors_are_weighted_and_their_difference_is_the_change() -> None:
    player, opponent, chain, drawn = game()
    result = exact_gradient(predictor(player, chain), drawn, chain, 1.0, "logistic", lambda _: None)
    theirs = exact_gradient(predictor(opponent, chain), drawn, chain, 1.0, "logistic", lambda _: None)
    torch.testing.assert_close(result.error_real - theirs.error_real, result.change_real)
    torch.testing.assert_close(result.error_gen - theirs.error_gen, result.change_gen)
    total = torch.zeros(8, dtype=torch.float64)
    for step, weight in enumerate((chain.weights / chain.weights.mean()).tolist()):
        eps_star = chain.eps_of(step, drawn.latents[step], drawn.latents[step + 1])
        eps = predictor(player, chain)(drawn.latents[step], step).detach()
        total += weight * (eps - eps_star).square().flatten(1).mean(1) / 6
    torch.testing.assert_close(torch.cat([result.error_real, result.error_gen]), total)


def test_the_real_trajectory_of_a_perfect_opponent_is_its_own() -> None:
    """Where all images are one image, the true eps is known and the forward chain is the reverse one."""
    chain = chain_of(5)
    generator = torch.Generator().manual_seed(1)
    x_0 = torch.randn(3, *SHAPE, generator=generator, dtype=torch.float64)
    noise = torch.randn(6, 3, *SHAPE, generator=generator, dtype=torch.float64)
    real = real_trajectory(x_0, noise, chain)

    def knows(x_t: Tensor, step: int) -> Tensor:
        return chain.eps_in(step, x_t, x_0)

    drawn = draw_trajectories(knows, x_0, noise, noise, chain)
    start = chain.signal[0] * x_0 + chain.noise[0] * noise[0] - noise[0]  # the sampler starts from pure noise
    gap = (drawn.latents[-1, :3] - drawn.latents[-1, 3:]).abs().max()
    assert torch.equal(drawn.latents[:, :3], real)
    assert gap < 0.05 * start.abs().max()


def test_memory_does_not_grow_with_the_number_of_steps() -> None:
    def peak(steps: int) -> int:
        player, _, chain, drawn = game(steps)
        alive, most = 0, 0

        class Held:
            def __init__(self, tensor: Tensor) -> None:
                self.tensor = tensor

        def release(size: int) -> None:
            nonlocal alive
            alive -= size

        def pack(tensor: Tensor) -> Held:
            nonlocal alive, most
            held = Held(tensor)
            alive += tensor.numel()
            most = max(most, alive)
            weakref.finalize(held, release, tensor.numel())
            return held

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
            exact_gradient(predictor(player, chain), drawn, chain, 2.0, "logistic", backward)
        return most

    assert 0 < peak(12) <= 1.01 * peak(3)


def test_a_loss_that_is_not_finite_is_refused_before_any_gradient() -> None:
    player, _, chain, drawn = game()
    nn.init.constant_(player.get_parameter("outer.bias"), math.inf)
    calls: list[Tensor] = []
    with pytest.raises(NonFiniteError, match="the update was not applied"):
        exact_gradient(predictor(player, chain), drawn, chain, 1.0, "logistic", calls.append)
    assert not calls


def test_the_gradient_flows_under_autocast_too() -> None:
    player, _, chain, drawn = game()
    player.float()
    single = Trajectories(drawn.latents.float(), drawn.opponent_eps.float())
    grown: Callable[[Tensor], None] = backward
    with torch.autocast("cpu", torch.bfloat16):
        exact_gradient(predictor(player, chain), single, chain, 2.0, "logistic", grown)
    in_half = [gradient.clone() for gradient in gradients(player)]
    player.zero_grad()
    exact_gradient(predictor(player, chain), single, chain, 2.0, "logistic", grown)
    for half, full in zip(in_half, gradients(player), strict=True):
        torch.testing.assert_close(half, full, rtol=0.1, atol=0.05 * full.abs().max().item())


def test_the_cost_counts_the_forwards_that_are_made() -> None:
    player, opponent = TinyDenoiser(0).double(), TinyDenoiser(1).double()
    chain, count = chain_of(6), {"plain": 0, "with gradient": 0}

    def counting(denoiser: nn.Module) -> PredictEps:
        def predict(x_t: Tensor, step: int) -> Tensor:
            count["with gradient" if torch.is_grad_enabled() else "plain"] += len(x_t)
            return predictor(denoiser, chain)(x_t, step)

        return predict

    x_0, noise = torch.randn(3, *SHAPE).double(), torch.randn(7, 3, *SHAPE).double()
    drawn = draw_trajectories(counting(opponent), x_0, noise, noise, chain)
    exact_gradient(counting(player), drawn, chain, 1.0, "logistic", backward)
    assert count["plain"] + 3 * count["with gradient"] == exact_forwards(num_pairs=3, num_steps=6)


def test_the_papers_setting_is_refused_with_its_cost_and_a_small_one_is_not() -> None:
    require_affordable(num_pairs=32 * 64, num_steps=15, flop_per_forward=200_000_000)
    with pytest.raises(
        ParamsError, match=r"objective.kind: exact must cost at most 1,000,000 TFLOP"
    ) as raised:
        require_affordable(num_pairs=2048 * 500, num_steps=50, flop_per_forward=803_000_000_000)
    assert "512,000,000 forward passes of 0.803 TFLOP, 411,136,000 TFLOP in all" in str(raised.value)


def affordable(flop: float) -> bool:
    """One forward of one pair over one step costs `flop`, ten of them in all."""
    try:
        require_affordable(1, 1, int(flop / 10))
    except ParamsError:
        return False
    return True


def test_the_environment_raises_lowers_or_lifts_what_is_affordable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OVERRIDE, raising=False)
    assert (affordable(MAX_FLOP), affordable(1.001 * MAX_FLOP)) == (True, False)
    for tera in ("2e6", "5", "0.25"):
        monkeypatch.setenv(OVERRIDE, tera)
        limit = float(tera) * 1e12
        assert (affordable(limit), affordable(1.001 * limit)) == (True, False)
    monkeypatch.setenv(OVERRIDE, "none")
    assert affordable(1e30)


@pytest.mark.parametrize("given", ["", "0", "-3", "nan", "much", "None", "1e6 TFLOP"])
def test_a_limit_that_is_no_number_above_0_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv(OVERRIDE, given)
    with pytest.raises(
        ParamsError, match=f"{OVERRIDE} must be a number of TFLOP above 0, or none, got {given};"
    ):
        require_affordable(1, 1, 1)


def test_a_limit_of_less_than_one_operation_is_a_limit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OVERRIDE, "5e-13")
    with pytest.raises(ParamsError, match="must cost at most 0 TFLOP an iteration"):
        require_affordable(1, 1, 1)
