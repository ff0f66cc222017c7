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


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e6])
def test_a_difference_of_rounding_is_a_tie_in_any_unit_and_a_real_one_is_none(unit: float) -> None:
    a = unit * np.random.default_rng(0).normal(20.0, 1.0, size=400)
    rounding = 1 + 4e-7 * np.random.default_rng(1).uniform(-1, 1, size=400)  # as float32 networks differ by
    assert st.winning_rate(a, a * rounding) == (0.5, 400, 400)
    assert st.winning_rate(a + 1e-3 * unit, a) == (1.0, 0, 400)


def test_ties_are_judged_scorer_by_scorer() -> None:
    large, small = np.full((4, 1), 1e4), np.full((4, 1), 1e-4)
    won = st.outcomes(np.hstack([large, small]), np.hstack([large + 1e-2, small * 2]))
    assert won[0].tolist() == [0.5, 0.0]


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
