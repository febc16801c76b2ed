"""Laws of sampling: what each option leaves, and that a seed repeats it."""

import pytest
import torch

from tpi_mpi.common.options import SamplingOptions
from tpi_mpi.engine.sampling import Sampler, draw, keep_top_k, keep_top_p, log_probability, penalise

LOGITS = torch.tensor([1.0, 3.0, 2.0, -1.0, 2.0])


def kept(logits: torch.Tensor) -> list[int]:
    return logits.isfinite().nonzero().flatten().tolist()


def drawn(options: SamplingOptions, count: int, logits: torch.Tensor = LOGITS) -> list[int]:
    sampler = Sampler(options, [])
    return [sampler.choose(logits) for _ in range(count)]


def test_top_k_keeps_the_highest_and_ties():
    assert kept(keep_top_k(LOGITS, 1)) == [1]
    assert kept(keep_top_k(LOGITS, 2)) == [1, 2, 4]
    assert kept(keep_top_k(LOGITS, 99)) == [0, 1, 2, 3, 4]


def test_top_p_keeps_the_fewest_that_reach_it():
    probabilities = torch.tensor([0.1, 0.5, 0.3, 0.1])
    for mass, expected in ((0.01, [1]), (0.49, [1]), (0.51, [1, 2]), (0.79, [1, 2]), (1.0, [0, 1, 2, 3])):
        assert kept(keep_top_p(probabilities.log(), mass)) == expected


@pytest.mark.parametrize("seed", range(3))
def test_top_k_and_top_p_agree_with_transformers(seed):
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    logits = torch.randn(100, generator=torch.Generator().manual_seed(seed))
    assert kept(keep_top_k(logits, 7)) == kept(TopKLogitsWarper(7)(None, logits[None])[0])
    assert kept(keep_top_p(logits, 0.6)) == kept(TopPLogitsWarper(0.6)(None, logits[None])[0])


def test_the_repetition_penalty_agrees_with_transformers():
    from transformers import RepetitionPenaltyLogitsProcessor

    expected = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([[1, 3]]), LOGITS[None].clone())[0]
    torch.testing.assert_close(penalise(LOGITS, [1, 3], 1.3), expected)


def test_a_penalised_greedy_sequence_does_not_repeat_itself():
    options = SamplingOptions(repetition_penalty=4.0)
    assert drawn(options, 3) == [1, 2, 4]


def test_the_prompt_counts_as_seen():
    assert Sampler(SamplingOptions(repetition_penalty=4.0), [1]).choose(LOGITS) == 2


def test_a_draw_follows_the_cumulative_probabilities():
    logits = torch.tensor([0.25, 0.0, 0.5, 0.25]).log()
    for uniform, expected in ((0.0, 0), (0.2499, 0), (0.2501, 2), (0.74, 2), (0.76, 3), (0.9999999, 3)):
        assert draw(logits, uniform) == expected


def test_samples_have_the_probabilities_of_the_model():
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    chosen = drawn(SamplingOptions(temperature=1.0, seed=7), 4000, probabilities.log())
    frequencies = torch.bincount(torch.tensor(chosen), minlength=4) / len(chosen)
    torch.testing.assert_close(frequencies, probabilities, atol=0.025, rtol=0)


def test_a_low_temperature_is_nearly_greedy():
    assert set(drawn(SamplingOptions(temperature=0.01, seed=1), 50)) == {1}


def test_a_seed_repeats_its_samples_and_another_does_not():
    first, again, other = (drawn(SamplingOptions(temperature=2.0, seed=seed), 40) for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_the_log_probability_is_the_models_own():
    assert log_probability(LOGITS, 2) == pytest.approx(float(LOGITS.log_softmax(-1)[2]))
