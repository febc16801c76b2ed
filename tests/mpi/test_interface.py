"""The Python interface: every rank calls the same line, or the others follow; models side by side."""

import pytest
import zoo

import tpi_mpi
from tpi_mpi.common.errors import UserError

SETTINGS = {"memory": "1GiB", "threads": 1}


def comm_of(run):
    return run[0].comm


def expected(workshop) -> list[list[int]]:
    return [result["token_ids"] for result in zoo.referee(workshop / "zoo" / "llama")]


def by_index(completions) -> list[list[int]]:
    return [completion.token_ids for completion in sorted(completions, key=lambda each: each.index)]


def test_every_rank_may_call_the_same_lines(run, workshop, slabs):
    with tpi_mpi.Model.open(slabs / "llama" / "even", comm_of(run), **SETTINGS) as model:
        for _ in range(2):
            found = list(model.generate(zoo.PROMPTS, max_new_tokens=zoo.NEW_TOKENS))
            if model.is_root:
                assert by_index(found) == expected(workshop)
            else:
                assert found == []


def test_the_others_may_follow(run, workshop, slabs):
    with tpi_mpi.Model.open(slabs / "llama" / "even", comm_of(run), **SETTINGS) as model:
        model.follow()
        if not model.is_root:
            return
        query = {"prompt_token_ids": zoo.PROMPTS[0], "max_new_tokens": zoo.NEW_TOKENS}
        (one,) = model.generate([query])
        assert one.token_ids == expected(workshop)[0]
        assert (one.finish_reason, len(one.logprobs), one.prompt_logprobs) == ("length", zoo.NEW_TOKENS, [])
        (score,) = model.score([[*zoo.PROMPTS[0], *one.token_ids]], top_logprobs=2)
        assert score.token_ids == []
        assert score.prompt_logprobs[-zoo.NEW_TOKENS :] == pytest.approx(one.logprobs, abs=1e-4)
        assert [len(top) for top in score.prompt_top_logprobs[1:]] == [2] * (len(score.prompt_logprobs) - 1)


def test_a_caller_may_stop_early_and_make_mistakes(run, workshop, slabs):
    with tpi_mpi.Model.open(slabs / "llama" / "even", comm_of(run), **SETTINGS) as model:
        model.follow()
        if not model.is_root:
            return
        completions = model.generate(zoo.PROMPTS, max_new_tokens=3)
        next(completions)
        completions.close()
        with pytest.raises(UserError, match=r"request 1: token id 7000 is not below"):
            list(model.generate([[1], [7000]], max_new_tokens=1))
        with pytest.raises(UserError, match=r"request 0: 'stopp' is not understood"):
            list(model.generate([{"prompt": "a", "stopp": "b"}]))
        assert by_index(model.generate(zoo.PROMPTS, max_new_tokens=zoo.NEW_TOKENS)) == expected(workshop)


def test_two_models_run_side_by_side(run, workshop):
    """On the two halves of a communicator, each with slabs for as many ranks as it has."""
    comm = comm_of(run)
    if comm.Get_size() % 2:
        pytest.skip("an even number of ranks is needed")
    half = comm.Get_size() // 2
    own = comm.Split(comm.Get_rank() // half)
    slabs = workshop / "slabs" / str(half) / ("llama" if comm.Get_rank() < half else "qwen3") / "even"
    name = slabs.parent.name
    with tpi_mpi.Model.open(slabs, own, **SETTINGS) as model:
        found = list(model.generate(zoo.PROMPTS, max_new_tokens=zoo.NEW_TOKENS))
        if model.is_root:
            assert by_index(found) == [result["token_ids"] for result in zoo.referee(workshop / "zoo" / name)]
    own.Free()
