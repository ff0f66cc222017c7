"""Statistics: cases worked by hand, and properties that hold for any scores."""

import math

import numpy as np
import pytest

from spin.evaluation import statistics as st


def scores(seed: int, num_prompts: int = 40) -> st.Floats:
    return np.random.default_rng(seed).normal(size=num_prompts).round(1)  # rounding makes ties


def sign_flip(differences: st.Floats, num_permutations: int, seed: int) -> float:
    return float(st.sign_flip_test(differences[:, None], num_permutations, seed)[0])


def test_winning_rate_counts_a_tie_as_half() -> None:
    won = st.winning_rate(np.array([2.0, 1.0, 3.0, 0.0]), np.array([1.0, 1.0, 4.0, -1.0]))
    assert won == (2.5 / 4, 1, 4)


def test_winning_rates_of_two_models_over_each_other_add_to_one() -> None:
    a, b = scores(0), scores(1)
    assert st.winning_rate(a, b).rate + st.winning_rate(b, a).rate == pytest.approx(1.0, abs=1e-15)
    assert st.winning_rate(a, b).ties == st.winning_rate(b, a).ties > 0


def test_a_model_over_itself_wins_half_and_ties_everywhere() -> None:
    assert st.winning_rate(scores(0), scores(0)) == (0.5, 40, 40)


def test_winning_rate_depends_on_the_order_of_scores_only_not_on_their_scale() -> None:
    a, b = scores(0), scores(1)
    assert st.winning_rate(a, b) == st.winning_rate(np.exp(a), np.exp(b))


def test_results_do_not_depend_on_the_order_of_prompts() -> None:
    a, b, order = scores(0), scores(1), np.random.default_rng(2).permutation(40)
    assert st.winning_rate(a, b) == st.winning_rate(a[order], b[order])
    assert sign_flip(a[:8] - b[:8], 256, 0) == sign_flip((a[:8] - b[:8])[::-1], 256, 0)


def test_the_mean_outcome_over_metrics_is_the_mean_of_their_winning_rates() -> None:
    a, b = np.stack([scores(0), scores(1)], 1), np.stack([scores(2), scores(3)], 1)
    rates = [st.winning_rate(a[:, m], b[:, m]).rate for m in range(2)]
    assert st.outcomes(a, b).mean() == pytest.approx(np.mean(rates))


def test_reductions_of_two_images_by_hand() -> None:
    # (1 prompt, 3 images, 3 scorers)
    images = np.array([[[1.0, 9.0, 0.0], [3.0, 8.0, 5.0], [5.0, 1.0, 4.0]]])
    assert st.reduce_images(images, "mean", [0, 1]).tolist() == [[3.0, 6.0, 3.0]]
    assert st.reduce_images(images, "median", [0, 1]).tolist() == [[3.0, 8.0, 4.0]]
    best = st.reduce_images(images, "best", [0, 1])
    assert best.tolist() == [[3.0, 8.0, 5.0]], "image 1 has the highest mean of scorers 0 and 1"


def test_of_equally_good_images_the_first_is_kept() -> None:
    assert st.reduce_images(np.array([[[1.0, 2.0], [2.0, 1.0]]]), "best", [0, 1]).tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("how", ["mean", "median", "best"])
def test_one_image_per_prompt_is_returned_unchanged(how: st.Reduction) -> None:
    images = np.random.default_rng(0).normal(size=(7, 1, 3))
    assert (st.reduce_images(images, how, [0, 2]) == images[:, 0]).all()


def test_bootstrap_of_a_mean_has_the_standard_error_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=400)
    replicates = st.bootstrap(values, st.resample_prompts(400, 2000, seed=1))
    assert replicates.mean() == pytest.approx(values.mean(), abs=0.01)
    assert replicates.std() == pytest.approx(values.std() / math.sqrt(400), rel=0.06)


def test_bootstrap_in_chunks_equals_bootstrap_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    resampled = st.resample_prompts(40, 100, seed=0)
    whole = st.bootstrap(scores(0), resampled, np.median)
    monkeypatch.setattr(st, "CHUNK", 130)
    assert (st.bootstrap(scores(0), resampled, np.median) == whole).all()


def test_one_resampling_keeps_models_paired() -> None:
    values, resampled = scores(0), st.resample_prompts(40, 100, seed=0)
    shift = st.bootstrap(values + 1.0, resampled) - st.bootstrap(values, resampled)
    assert shift == pytest.approx(1.0), "better by 1 on every prompt is better by 1 in every replicate"


def test_percentile_interval_by_hand() -> None:
    assert st.percentile_interval(np.arange(101.0), 0.9) == pytest.approx((5.0, 95.0))


def test_winning_every_prompt_does_not_claim_certainty() -> None:
    resampled = st.resample_prompts(100, 200, seed=0)
    low, high = st.winning_interval(np.ones(100), resampled, 0.95)
    assert (low, high) == (pytest.approx(0.025 ** (1 / 100)), 1.0)
    assert st.winning_interval(np.zeros(100), resampled, 0.95) == (0.0, pytest.approx(1 - low))


def test_sign_flip_test_by_hand() -> None:
    assert sign_flip(np.array([1.0, 2.0, 3.0]), 1000, seed=0) == 2 / 8
    assert sign_flip(np.array([1.0, -1.0]), 1000, seed=0) == 1.0


@pytest.mark.parametrize("num_permutations", [99, 2**10])
def test_a_loss_is_as_significant_as_a_win_of_its_size(num_permutations: int) -> None:
    differences = scores(3, 10) + 1.5
    assert sign_flip(-differences, num_permutations, 0) == sign_flip(differences, num_permutations, 0) < 0.5


def test_random_flips_agree_with_all_flips() -> None:
    differences = scores(3, 14) + 0.4
    exact = sign_flip(differences, 2**14, seed=0)
    assert sign_flip(differences, 2**14 - 1, seed=0) == pytest.approx(exact, abs=0.01)


def test_several_metrics_are_tested_at_once_as_one_by_one() -> None:
    both = np.stack([scores(3) + 0.2, scores(4)], 1)
    alone = [sign_flip(both[:, m], 999, seed=0) for m in range(2)]
    assert st.sign_flip_test(both, 999, seed=0).tolist() == pytest.approx(alone)


def test_sign_flip_p_is_never_zero_and_one_without_a_difference() -> None:
    assert sign_flip(np.ones(200), 999, seed=0) == 1 / 1000
    assert sign_flip(np.zeros(200), 999, seed=0) == 1.0


def test_holm_by_hand() -> None:
    assert st.holm(np.array([0.01, 0.04, 0.03])).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert st.holm(np.array([0.6, 0.7])).tolist() == [1.0, 1.0]


def test_holm_never_lowers_a_p_value_and_keeps_their_order() -> None:
    p_values = np.random.default_rng(0).uniform(size=20)
    adjusted = st.holm(p_values)
    assert (adjusted >= p_values).all()
    assert (np.diff(adjusted[np.argsort(p_values)]) >= 0).all()


def test_prompts_needed_by_hand() -> None:
    # ((1.95996 + 0.84162) * 1.4 / 0.1)^2 = 1538.4
    assert st.prompts_needed(0.1, 1.4, confidence=0.95) == 1539
    assert st.prompts_needed(-0.1, 1.4, confidence=0.95) == 1539
    assert st.prompts_needed(0.0, 1.4, confidence=0.95) == math.inf


def test_prompts_needed_give_the_promised_power() -> None:
    generator = np.random.default_rng(0)
    needed = int(st.prompts_needed(0.3, 1.0, confidence=0.95))
    trials = generator.normal(0.3, 1.0, size=(4000, needed))
    z = trials.mean(1) / (trials.std(1) / math.sqrt(needed))
    assert (np.abs(z) > 1.96).mean() == pytest.approx(0.8, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("statistic", ["mean", "median", "difference", "winning rate"])
def test_intervals_cover_the_truth_as_often_as_they_say(statistic: str) -> None:
    generator, covered, trials = np.random.default_rng(0), 0, 500
    resampled = st.resample_prompts(200, 400, seed=1)
    for _ in range(trials):
        prompt = generator.normal(size=200)  # shared by both models: what pairing removes
        a, b = prompt + generator.normal(0.5, 1.0, 200), prompt + generator.normal(0.0, 1.0, 200)
        if statistic == "winning rate":
            truth = 0.6382  # Phi(0.5 / sqrt 2)
            interval = st.winning_interval(st.outcomes(a, b), resampled, 0.95)
        else:
            values = a - b if statistic == "difference" else a
            reduce = np.median if statistic == "median" else np.mean
            truth, interval = 0.5, st.percentile_interval(st.bootstrap(values, resampled, reduce), 0.95)
        covered += interval.low <= truth <= interval.high
    assert 0.92 <= covered / trials <= 0.98
