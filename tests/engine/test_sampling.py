"""Laws of sampling: what each option leaves, and that a seed repeats it."""

import numpy as np
import pytest
import torch

from tpi_mpi.common.options.sampling import SamplingOptions
from tpi_mpi.engine.sampling.adjustments import add_biases, penalise, penalise_counts
from tpi_mpi.engine.sampling.draw import draw
from tpi_mpi.engine.sampling.filters import keep_min_p, keep_top_k, keep_top_p
from tpi_mpi.engine.sampling.probabilities import log_probabilities
from tpi_mpi.engine.sampling.sampler import Sampler

LOGITS = np.array([1.0, 3.0, 2.0, -1.0, 2.0], np.float32)


def kept(logits: np.ndarray) -> list[int]:
    return np.flatnonzero(np.isfinite(logits)).tolist()


def drawn(options: SamplingOptions, count: int, logits: np.ndarray = LOGITS) -> list[int]:
    sampler, chosen = Sampler(options, []), []
    for position in range(count):
        chosen.append(sampler.choose(logits, position))
        sampler.see(chosen[-1])
    return chosen


def test_top_k_keeps_the_highest_and_ties():
    assert kept(keep_top_k(LOGITS, 1)) == [1]
    assert kept(keep_top_k(LOGITS, 2)) == [1, 2, 4]
    assert kept(keep_top_k(LOGITS, 99)) == [0, 1, 2, 3, 4]


def test_top_p_keeps_the_fewest_that_reach_it():
    probabilities = np.array([0.1, 0.5, 0.3, 0.1])
    for mass, expected in ((0.01, [1]), (0.49, [1]), (0.51, [1, 2]), (0.79, [1, 2]), (1.0, [0, 1, 2, 3])):
        assert kept(keep_top_p(np.log(probabilities), mass)) == expected


@pytest.mark.parametrize("seed", range(3))
def test_top_k_and_top_p_agree_with_transformers(seed):
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    logits = np.random.default_rng(seed).standard_normal(100)
    batch = torch.from_numpy(logits)[None]
    assert kept(keep_top_k(logits, 7)) == kept(TopKLogitsWarper(7)(None, batch)[0].numpy())
    assert kept(keep_top_p(logits, 0.6)) == kept(TopPLogitsWarper(0.6)(None, batch)[0].numpy())


@pytest.mark.parametrize("part", [1e-9, 0.02, 0.3, 1.0])
def test_min_p_agrees_with_transformers(part):
    from transformers import MinPLogitsWarper

    logits = np.random.default_rng(4).standard_normal(100) * 3
    assert kept(keep_min_p(logits, part)) == kept(
        MinPLogitsWarper(part)(None, torch.from_numpy(logits)[None])[0].numpy()
    )


def test_biases_agree_with_transformers():
    from transformers import SequenceBiasLogitsProcessor

    before, biases = LOGITS.copy(), {1: -100.0, 4: 2.5}
    processor = SequenceBiasLogitsProcessor({(id,): bias for id, bias in biases.items()})
    expected = processor(torch.tensor([[0]]), torch.tensor(LOGITS)[None])[0]
    np.testing.assert_array_equal(add_biases(LOGITS, tuple(biases.items())), expected.numpy())
    assert np.array_equal(LOGITS, before)


def test_penalties_count_what_was_generated():
    before = LOGITS.copy()
    penalised = penalise_counts(LOGITS, {1: 3, 4: 1}, 0.5, 0.25)
    np.testing.assert_array_equal(penalised, np.array([1.0, 3.0 - 1.25, 2.0, -1.0, 2.0 - 0.75], np.float32))
    assert penalised.dtype == LOGITS.dtype
    assert np.array_equal(LOGITS, before)
    assert np.array_equal(penalise_counts(LOGITS, {}, 0.5, 0.25), LOGITS)


def test_a_frequent_token_gives_way():
    """Of the logits 1, 3, 2, -1, 2."""
    assert drawn(SamplingOptions(frequency_penalty=0.6), 6) == [1, 1, 2, 4, 1, 2]
    assert drawn(SamplingOptions(presence_penalty=1.5), 6) == [1, 2, 4, 1, 1, 1]
    assert drawn(SamplingOptions(presence_penalty=None, frequency_penalty=None), 2) == [1, 1]


def test_the_prompt_counts_as_seen_but_not_as_generated():
    for options, token in ((SamplingOptions(presence_penalty=2), 1), (SamplingOptions(repetition_penalty=2), 2)):
        assert Sampler(options, [1]).choose(LOGITS, 1) == token


def test_biases_come_first():
    assert drawn(SamplingOptions(logit_bias={1: -100, "3": 4.5}, repetition_penalty=4.0), 3) == [3, 2, 4]
    assert set(drawn(SamplingOptions(temperature=2.0, seed=1, logit_bias={0: 100}), 20)) == {0}
    assert set(drawn(SamplingOptions(temperature=2.0, seed=1, min_p=0.9), 20)) == {1}


def test_the_repetition_penalty_agrees_with_transformers():
    from transformers import RepetitionPenaltyLogitsProcessor

    before = LOGITS.copy()
    expected = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([[1, 3]]), torch.tensor(LOGITS)[None])[0]
    np.testing.assert_allclose(penalise(LOGITS, [1, 3], 1.3), expected.numpy(), rtol=1e-6)
    assert np.array_equal(LOGITS, before)
    assert np.array_equal(penalise(LOGITS, [], 1.3), LOGITS)


def test_a_penalised_greedy_sequence_does_not_repeat_itself():
    options = SamplingOptions(repetition_penalty=4.0)
    assert drawn(options, 3) == [1, 2, 4]


def test_a_draw_takes_the_highest_after_its_luck():
    with np.errstate(divide="ignore"):
        logits = np.log([0.25, 0.0, 0.5, 0.25])
    assert draw(logits, np.array([0.5, 0.5, 0.5, 0.5])) == 2
    assert draw(logits, np.array([0.5, 1 - 1e-15, 0.5, 0.9])) == 3
    assert draw(logits, np.array([0.0, 0.0, 0.0, 0.01])) == 3
    assert draw(logits, np.zeros(4)) in (0, 2, 3)


def test_what_is_drafted_counts_as_seen_only_where_it_is():
    sampler = Sampler(SamplingOptions(repetition_penalty=4.0), [])
    assert [sampler.choose(LOGITS, 0), sampler.choose(LOGITS, 1, [1]), sampler.choose(LOGITS, 0)] == [1, 2, 1]
    sampler = Sampler(SamplingOptions(frequency_penalty=0.6), [])
    assert [sampler.choose(LOGITS, 0), sampler.choose(LOGITS, 2, [1, 1]), sampler.choose(LOGITS, 0)] == [1, 2, 1]


def test_samples_have_the_probabilities_of_the_model():
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    chosen = drawn(SamplingOptions(temperature=1.0, seed=7), 4000, np.log(probabilities))
    frequencies = np.bincount(chosen, minlength=4) / len(chosen)
    np.testing.assert_allclose(frequencies, probabilities, atol=0.025, rtol=0)


def test_a_low_temperature_is_nearly_greedy():
    assert set(drawn(SamplingOptions(temperature=0.01, seed=1), 50)) == {1}


def test_a_seed_repeats_its_samples_and_another_does_not():
    first, again, other = (drawn(SamplingOptions(temperature=2.0, seed=seed), 40) for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_the_log_probability_is_the_models_own():
    assert log_probabilities(LOGITS, [2]) == pytest.approx([float(torch.from_numpy(LOGITS).log_softmax(-1)[2])])
    many = np.random.default_rng(0).normal(0, 5, 150_000).astype(np.float32)
    expected = torch.from_numpy(many).double().log_softmax(-1)
    assert log_probabilities(many, (0, 77)) == pytest.approx([float(expected[t]) for t in (0, 77)])


def test_of_equal_logits_the_first_is_the_highest():
    assert Sampler(SamplingOptions(), []).choose(np.array([1.0, 3.0, 3.0], np.float32), 0) == 1


def obvious_top_p(logits: np.ndarray, mass: float) -> list[int]:
    """All tokens sorted, however improbable."""
    ordered, order = torch.from_numpy(logits).sort(descending=True, stable=True)
    probabilities = ordered.softmax(-1)
    possible = (probabilities.cumsum(-1) - probabilities < mass) & (probabilities > 0)
    return sorted(order[possible].tolist())


@pytest.mark.parametrize("mass", [1e-20, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("spread", [0.0, 0.5, 3.0, 20.0])
def test_top_p_finds_among_the_likely_what_it_would_among_all(mass, spread):
    logits = np.round(np.random.default_rng(3).normal(0, spread, 3000), 1)  # with many ties
    assert kept(keep_top_p(logits, mass)) == obvious_top_p(logits, mass)
    alone = keep_top_k(logits, 5)
    assert kept(keep_top_p(alone, mass)) == obvious_top_p(alone, mass)


CHAIN = np.log([[0.4, 0.3, 0.2, 0.1], [0.1, 0.6, 0.1, 0.2], [0.25, 0.25, 0.25, 0.25], [0.7, 0.1, 0.1, 0.1]])
DRAFTS = np.log([[0.3, 0.3, 0.3, 0.1], [0.2, 0.5, 0.1, 0.2], [0.4, 0.2, 0.2, 0.2], [0.1, 0.7, 0.1, 0.1]])


def speculated(sampler: Sampler) -> tuple[list[int], int]:
    """Three tokens after token 0, of which two are drafted; and how many of these were right."""
    draft, tokens, right = [0], [0], 0
    for position in (1, 2):
        draft.append(sampler.choose(DRAFTS[draft[-1]], position, draft[1:]))
    for position in (1, 2, 3):
        tokens.append(sampler.choose(CHAIN[tokens[-1]], position))
        right += position < 3 and tokens == draft[: position + 1]
    return tokens[1:], right


def test_what_is_left_of_drafts_has_the_distribution_of_the_model():
    """By a chi-square test of three tokens in a row: 63 degrees of freedom, at a level of one in ten thousand."""
    count, seen, right = 20_000, np.zeros((4, 4, 4)), 0
    for seed in range(count):
        tokens, agreed = speculated(Sampler(SamplingOptions(temperature=1.0, seed=seed), []))
        seen[tuple(tokens)] += 1
        right += agreed
    chain = np.exp(CHAIN)
    expected = count * chain[0][:, None, None] * chain[:, :, None] * chain[None]
    assert ((seen - expected) ** 2 / expected).sum() < 115
    assert right > 1.2 * count  # of two drafted tokens


def test_similar_models_draw_alike():
    """As often as is possible without telling each other anything: (1 - d) / (1 + d), with d half the L1 norm."""
    ones, others = np.log([0.5, 0.3, 0.15, 0.05]), np.log([0.4, 0.35, 0.1, 0.15])
    distance = abs(np.exp(ones) - np.exp(others)).sum() / 2
    sampler = Sampler(SamplingOptions(temperature=1.0, seed=3), [])
    alike = np.mean([sampler.choose(ones, place) == sampler.choose(others, place) for place in range(4000)])
    assert (1 - distance) / (1 + distance) - 0.02 < alike <= 1 - distance + 0.02
