"""Intervals, tests and ranks against closed forms, other implementations and simulations."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest, t  # type: ignore[import-untyped]

from robustness_bench.benchmark import statistics
from robustness_bench.benchmark.statistics import (
    Audit,
    Difference,
    MeanStd,
    Outcomes,
    Rank,
    audit_words,
    differences,
    inside,
    mcnemar_exact,
    mean_std,
    missed_bound,
    ranks,
    resample,
    widened,
    wilson,
    withstand_all,
)


def row(*shares: float, images: int = 1000) -> Outcomes:
    """A seed per share: the first images withstand."""
    return np.stack([np.arange(images) < share * images for share in shares])


def bootstrap_difference(
    first: Outcomes, second: Outcomes, *, matched: bool = False, level: float = 0.95, **draws: int
) -> Difference:
    one, other = resample([first, second], **draws)
    return differences(one, [other], matched=[matched], level=level)[0]


def random_rows(rng: np.random.Generator, count: int, images: int = 300) -> list[Outcomes]:
    """Of one to four seeds, on images of unequal difficulty."""
    difficulty = rng.normal(0, 1.0, images)
    return [
        difficulty + rng.normal(rng.normal(0, 0.5), 0.4, (rng.integers(1, 5), images)) > 0
        for _ in range(count)
    ]


def test_the_worst_case_is_image_by_image() -> None:
    """Each attack leaves half of the images, both together a quarter, and a third one nothing more."""
    images, first, second = np.array([7, 3, 5, 9]), np.array([1, 1, 0, 0]) > 0, np.array([1, 0, 1, 0]) > 0
    assert withstand_all([(images, first)]).tolist() == [True, True, False, False]
    both = [(images, first), (images, second)]
    assert withstand_all(both).tolist() == [True, False, False, False]
    assert withstand_all([*both, (images, first | second)]).tolist() == [True, False, False, False]
    for other in (images[::-1], images[:3], images + 1):
        with pytest.raises(ValueError, match="same images in the same order"):
            withstand_all([*both, (other, first)])
    with pytest.raises(ValueError, match="not enough values"):
        withstand_all([])


def test_mean_std_of_one_has_no_spread() -> None:
    assert mean_std([3.0]) == (3.0, None, 1)
    assert mean_std([1.0, 3.0]) == pytest.approx((2.0, math.sqrt(2), 2))
    with pytest.raises(ValueError, match="at least one"):
        mean_std([])


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (3, 10), (47, 100), (500, 1000), (1, 1)])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_wilson_is_scipys(successes: int, n: int, level: float) -> None:
    theirs = binomtest(successes, n).proportion_ci(level, method="wilson")
    assert wilson(successes, n, level) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_of_a_mean_over_seeds_solves_its_equation() -> None:
    """Both ends are where the score test of p̂ = 137 / 300 is just refused at 95 %."""
    p, n, z = 137 / 300, 100, 1.959963984540054
    for end in wilson(100 * p, n):
        assert (p - end) ** 2 == pytest.approx(z * z * end * (1 - end) / n)


def test_wilson_stays_within_its_bounds() -> None:
    assert wilson(0, 7).low == 0
    assert wilson(7, 7).high == 1
    assert 0 <= wilson(1e-9, 10**6).low < 1e-9
    for successes, n in ((1, 0), (-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="wilson needs"):
            wilson(successes, n)


@pytest.mark.parametrize(("b", "c"), [(1, 0), (5, 5), (3, 12), (12, 3), (30, 5), (100_000, 101_000)])
def test_mcnemar_is_the_binomial_test(b: int, c: int) -> None:
    assert mcnemar_exact(b, c) == pytest.approx(binomtest(b, b + c).pvalue, rel=1e-9)


def test_mcnemar_without_disagreement_says_nothing() -> None:
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(10**7, 9 * 10**6) < 1e-300
    with pytest.raises(ValueError, match="counts images"):
        mcnemar_exact(-1, 3)


@pytest.mark.parametrize("matched", [True, False])
def test_bootstrap_is_the_loop_it_replaces(matched: bool) -> None:
    rng = np.random.default_rng(5)
    first, second = rng.random((3, 40)) < [[0.3], [0.5], [0.7]], rng.random((3, 40)) < [[0.2], [0.4], [0.5]]
    drawn = []
    for _ in range(8000):
        images, ours = rng.integers(40, size=40), rng.integers(3, size=3)
        theirs = ours if matched else rng.integers(3, size=3)
        drawn.append(first[ours][:, images].mean() - second[theirs][:, images].mean())
    found = bootstrap_difference(first, second, matched=matched)
    assert found.mean == pytest.approx(first.mean() - second.mean())
    assert found[1:] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.015)


def test_bootstrap_pairs_the_images() -> None:
    """First is second and ten images more: apart, hard and easy images would drown the difference."""
    found = bootstrap_difference(row(0.51), row(0.50))
    assert found.mean == pytest.approx(0.01)
    assert 0.003 < found.low < 0.006
    assert 0.014 < found.high < 0.018


def test_bootstrap_has_a_sign_and_one_answer() -> None:
    first, second = row(0.6, 0.5, 0.55, images=200), row(0.4, 0.45, images=200)
    found = bootstrap_difference(first, second)
    assert found == bootstrap_difference(first, second)
    few = [bootstrap_difference(first, second, resamples=50, seed=seed) for seed in (0, 0, 1)]
    assert few[0] == few[1] != few[2]
    back = bootstrap_difference(second, first)
    assert (back.mean, back.low, back.high) == pytest.approx((-found.mean, -found.high, -found.low), abs=0.01)
    assert 0 < found.low < found.mean < found.high


def test_bootstrap_of_what_cannot_vary_is_a_point() -> None:
    assert bootstrap_difference(row(1.0, 1.0), row(0.0)) == (1.0, 1.0, 1.0)
    assert bootstrap_difference(row(0.3), row(0.3)) == (0.0, 0.0, 0.0)


def test_bootstrap_level_and_seeds_widen() -> None:
    first, second = row(0.6, 0.5), row(0.4, 0.4)
    narrow, wide = (bootstrap_difference(first, second, level=level) for level in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high
    fixed = bootstrap_difference(row(0.55), second)
    assert fixed.high - fixed.low < narrow.high - narrow.low


def test_bootstrap_in_chunks_is_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 80 resamples, and the last one shorter."""
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 500)) < 0.5, rng.random((3, 500)) < 0.45
    whole = bootstrap_difference(first, second, resamples=9_999)
    monkeypatch.setattr(statistics, "_AT_ONCE", 40_000)
    assert bootstrap_difference(first, second, resamples=9_999) == pytest.approx(whole, abs=0.004)
    monkeypatch.setattr(statistics, "_AT_ONCE", 1)
    one = bootstrap_difference(first, second, resamples=1)
    assert one.low == one.high


def test_bootstrap_does_not_depend_on_company() -> None:
    """Alone or among others, swapped or not: the same interval, of opposite sign where seeds are matched."""
    rng = np.random.default_rng(1)
    rows = [rng.random((seeds, 90)) < 0.5 for seeds in (2, 2, 3, 1)]
    drawn = resample(rows)
    for one in range(4):
        for other in {0, 1, 2, 3} - {one}:
            matched = {one, other} == {0, 1}
            alone = bootstrap_difference(rows[one], rows[other], matched=matched)
            assert alone == differences(drawn[one], [drawn[2], drawn[other]], matched=[False, matched])[1]
            if matched:
                back = bootstrap_difference(rows[other], rows[one], matched=True)
                assert back == pytest.approx((-alone.mean, -alone.high, -alone.low))


def test_bootstrap_ends_are_numpys_quantiles() -> None:
    rng = np.random.default_rng(2)
    one, other = resample([rng.random((2, 70)) < 0.6, rng.random((3, 70)) < 0.5], resamples=501)
    drawn = one.in_step / 140 - other.apart / 210
    (found,) = differences(one, [other], matched=[False], level=0.9)
    assert found[1:] == pytest.approx(np.quantile(drawn, [0.05, 0.95]))


def test_bootstrap_refuses_other_images() -> None:
    with pytest.raises(ValueError, match="not the same images"):
        bootstrap_difference(row(0.5), row(0.5, images=999))
    with pytest.raises(ValueError, match="or none"):
        bootstrap_difference(row(0.5, images=0), row(0.5, images=0))
    with pytest.raises(ValueError, match="as many on either side"):
        bootstrap_difference(row(0.5), row(0.5, 0.5), matched=True)


def test_rows_far_apart_have_certain_ranks() -> None:
    assert ranks([row(0.2), row(0.8), row(0.5)]) == [Rank(3, 3), Rank(1, 1), Rank(2, 2)]


def test_rows_close_together_share_ranks() -> None:
    """0.50 and 0.501 differ in one image; 0.9 is above and 0.1 below both."""
    assert ranks([row(0.5), row(0.9), row(0.501), row(0.1)]) == [
        Rank(2, 3),
        Rank(1, 1),
        Rank(2, 3),
        Rank(4, 4),
    ]


def test_few_rows_and_none() -> None:
    assert ranks([]) == []
    assert ranks([row(0.4)]) == [Rank(1, 1)]
    assert ranks([row(0.0), row(0.0), row(1.0)]) == [Rank(2, 3), Rank(2, 3), Rank(1, 1)]


def test_unanimity_on_two_images_is_no_proof() -> None:
    assert ranks([row(0.0, images=2), row(1.0, images=2)]) == [Rank(1, 2), Rank(1, 2)]


def test_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="not the same images"):
        ranks([row(0.5), row(0.5, images=999)])
    with pytest.raises(ValueError, match="or none"):
        ranks([row(0.5, images=0), row(0.5, images=0)])


def test_one_pair_is_a_t_test_by_hand() -> None:
    """Where the p of the definition passes 5 %, there the ranks become certain."""
    certain = []
    for extra in range(30):
        first, second = row(0.50, 0.56, 0.53), row(0.47 - extra / 1000, 0.49 - extra / 1000)
        gap = (first.mean() - second.mean()) * 1000 / 1002
        apart = first.mean(0) - second.mean(0)
        images = ((apart**2).sum() + 2) / 1002 - gap**2
        own = [part.mean(1).var(ddof=1) for part in (first, second)]
        common = (2 * own[0] + own[1]) / 3
        parts = [images / 1002, max(own[0], common) / 3, max(own[1], common) / 2]
        freedom = sum(parts) ** 2 / (parts[0] ** 2 / 1000 + (parts[1] ** 2 + parts[2] ** 2) / 3)
        p = 2 * t.sf(gap / math.sqrt(sum(parts)), freedom)
        certain.append(p < 0.05)
        assert ranks([first, second]) == ([Rank(1, 1), Rank(2, 2)] if p < 0.05 else [Rank(1, 2)] * 2)
    assert {True, False} == set(certain)


def test_more_rows_ask_for_more_proof() -> None:
    """What is certain between two is not among a hundred more, of which some pair differs by chance."""
    pair = [row(0.508), row(0.500)]
    assert ranks(pair) == [Rank(1, 1), Rank(2, 2)]
    many = ranks([*pair, *(row(share) for share in np.linspace(0, 0.3, 100))])
    assert many[:2] == [Rank(1, 2), Rank(1, 2)]


def test_seeds_that_differ_make_ranks_uncertain() -> None:
    assert ranks([row(0.55), row(0.50)]) == [Rank(1, 1), Rank(2, 2)]
    assert ranks([row(0.45, 0.65), row(0.50)]) == [Rank(1, 2), Rank(1, 2)]


@pytest.mark.parametrize("seed", range(20))
def test_ranks_follow_the_accuracies(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = random_rows(rng, 25)
    rows += [rows[3], np.repeat(rows[4], 2, axis=0), ~rows[5] | True, rows[6] & False]
    shares = [outcomes.mean() for outcomes in rows]
    found = ranks(rows)
    order = rng.permutation(len(rows))
    assert [found[place] for place in order] == ranks([rows[place] for place in order])
    for share, rank in zip(shares, found, strict=True):
        assert 1 <= rank.first <= 1 + sum(other > share + 1e-12 for other in shares)
        assert len(rows) - sum(other < share - 1e-12 for other in shares) <= rank.last <= len(rows)
        for other, theirs in zip(shares, found, strict=True):
            if other <= share + 1e-12:
                assert rank.first <= theirs.first
                assert rank.last <= theirs.last or other > share - 1e-12
    assert found[25] == found[3]
    assert found[26] == found[4]
    assert len(set(found)) > 3


def test_a_noisy_row_is_never_ahead_of_a_better_one() -> None:
    """The second is surely below the first, the third, lower still, is not: it might be anywhere."""
    rows = [row(0.6), row(0.5), row(0.2, 0.75)]
    found = ranks(rows)
    assert found == [Rank(1, 2), Rank(1, 3), Rank(1, 3)]


def test_claims_are_seldom_wrong() -> None:
    """Nine defenses that are equally good, three trainings each: one claim among them is one too many."""
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(100):
        easy = rng.normal(0, 1.0, 500)
        rows = [
            np.stack([easy + rng.normal(rng.normal(0, 0.1), 0.5, 500) > 0 for _ in range(3)])
            for _ in range(9)
        ]
        wrong += any(rank != Rank(1, 9) for rank in ranks(rows))
    assert wrong <= 10


def test_five_hundred_rows_at_once() -> None:
    rng = np.random.default_rng(1)
    found = ranks(random_rows(rng, 500, images=1000))
    assert len(found) == 500
    assert min(found).first == 1


@pytest.mark.parametrize(
    ("figure", "images", "published", "verdict"),
    [
        # Wilson of 50 of 100: 40.3832 to 59.6168
        (MeanStd(50.0, None, 1), 100, 40.39, True),
        (MeanStd(50.0, None, 1), 100, 40.37, False),
        (MeanStd(50.0, None, 1), 100, 59.61, True),
        (MeanStd(50.0, None, 1), 100, 59.63, False),
        (MeanStd(50.0, 2.0, 3), 100, 38.39, True),  # the seeds' spread once, on either side
        (MeanStd(50.0, 2.0, 3), 100, 38.37, False),
        (MeanStd(50.0, 2.0, 3), 100, 61.63, False),
        (MeanStd(50.0, None, 1), 10_000, 49.0, False),  # more images, a narrower claim
        (MeanStd(100.0, None, 1), 99, 96.27, True),  # 96.2647
        (MeanStd(100.0, None, 1), 99, 96.26, False),
        (MeanStd(100.0, None, 1), 99, 100.0, True),
        (MeanStd(99.0, 5.0, 2), 1000, 100.0, True),  # never beyond 0 and 100
    ],
)
def test_a_published_figure_inside_ours_by_hand(
    figure: MeanStd, images: int, published: float, verdict: bool
) -> None:
    interval = widened(figure, images)
    assert 0.0 <= interval.low <= figure.mean <= interval.high <= 100.0
    assert inside(published, interval) is verdict


def test_the_bound_is_clopper_and_pearson_s() -> None:
    """Of 1000, 100 audited: 1 - 0.05^(1/100) of all where none fell; the table's 4.66 % where one did."""
    none = missed_bound(1000, 100, 0)
    assert none.at_most == pytest.approx(1000 * (1 - 0.05 ** (1 / 100)), rel=1e-4)
    assert none.expected == 0
    one = missed_bound(1000, 100, 1)
    assert one.at_most == pytest.approx(1000 * 0.0466 - 1, abs=0.1)
    assert one.expected == pytest.approx(9)
    assert missed_bound(50, 50, 3).at_most == 0  # all are known
    assert missed_bound(50, 0, 0).at_most == 50
    assert missed_bound(50, 4, 4).at_most == 46
    with pytest.raises(ValueError, match="got 5, 2 and 3"):
        missed_bound(3, 2, 5)


@pytest.mark.parametrize("missed", [0.0, 0.005, 0.02, 0.1, 0.5])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.3])
def test_the_bound_holds_as_often_as_it_says(share: float, missed: float) -> None:
    """10,000 audits of 1000 samples, of which the cheap members missed so many: 95 % and a bit, not all."""
    survivors, trials = 1000, 10_000
    rng, wrong = np.random.default_rng(0), round(missed * survivors)
    among_wrong = rng.binomial(wrong, share, trials)
    among_right = rng.binomial(survivors - wrong, share, trials)
    held = 0
    counts: dict[tuple[int, int], int] = {}
    for pair in zip((among_wrong + among_right).tolist(), among_wrong.tolist(), strict=True):
        counts[pair] = counts.get(pair, 0) + 1
    for (drawn, fallen), times in counts.items():
        held += times * (wrong - fallen <= missed_bound(survivors, drawn, fallen).at_most)
    assert held / trials >= 0.945
    if missed == 0.1 and share >= 0.05:
        assert held / trials <= 0.99  # a bound that always holds says nothing


def test_audit_words_say_how_far_below_in_points_of_all_images() -> None:
    """Of 10,000 images 4,820 left: 360 audits without a fall bound the others by 0.83 %, or 0.4 points."""
    audit = Audit(survivors=4820, audited=360, fallen=0, escalated=12)
    words = audit_words([audit], 10_000)
    below, _, counts = words.partition(" (")
    assert below == "at most 0.4 below with 95 % confidence"
    assert counts == "0 of 360 audited fell, 12 more went through the whole attack)"
    two = audit_words([audit, Audit(4820, 360, 4, 0)], 10_000)
    points = 100 * missed_bound(9640, 720, 4).at_most / 20_000
    assert two.startswith(f"at most {points:.1f} below")
    assert "(4 of 720 audited fell, 12 more" in two
    assert audit_words([Audit(4820, 0, 0, 3)], 10_000) == "not audited"
    assert audit_words([Audit(0, 0, 0, 3)], 10_000) == "nothing is left to the cheap members alone"
