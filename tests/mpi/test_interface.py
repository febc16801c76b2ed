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


def test_only_one_generation_is_under_way(run, slabs):
    with tpi_mpi.Model.open(slabs / "llama" / "even", comm_of(run), **SETTINGS) as model:
        model.follow()
        if not model.is_root:
            return
        outer = model.generate(zoo.PROMPTS, max_new_tokens=3)
        next(outer)
        with pytest.raises(UserError, match="end or close the generation under way first"):
            next(model.generate([[1]]))
        assert len(list(outer)) == 1


def test_a_generation_that_is_never_begun_keeps_nobody_waiting(run, slabs):
    with tpi_mpi.Model.open(slabs / "llama" / "even", comm_of(run), **SETTINGS) as model:
        completions = model.generate(zoo.PROMPTS, max_new_tokens=3)
        if not model.is_root:
            assert list(completions) == []
            assert list(model.generate(zoo.PROMPTS)) == []  # which rank 0 does not come to
    if model.is_root:
        with pytest.raises(UserError, match="the model is closed"):
            next(completions)


def test_a_mistake_in_the_options_ends_one_generation(run, workshop, slabs):
    with tpi_mpi.Model.open(slabs / "llama" / "even", comm_of(run), **SETTINGS) as model:
        if model.is_root:
            with pytest.raises(UserError, match="temperature is -1"):
                list(model.generate(zoo.PROMPTS, temperature=-1))
        else:
            list(model.generate(zoo.PROMPTS, temperature=-1))
        found = list(model.generate(zoo.PROMPTS, max_new_tokens=zoo.NEW_TOKENS))
        assert by_index(found) == (expected(workshop) if model.is_root else [])


def test_after_a_failed_sweep_nothing_more_is_computed(run, slabs, monkeypatch):
    if run[0].size > 1:
        pytest.skip("it would end the other ranks, and this test")
    with tpi_mpi.Model.open(slabs / "llama" / "even", comm_of(run), **SETTINGS) as model:

        def fail(*step):
            raise MemoryError

        monkeypatch.setattr(model._engine.leader, "_sweep", fail)
        with pytest.raises(MemoryError):
            list(model.generate(zoo.PROMPTS, max_new_tokens=3))
        with pytest.raises(AssertionError, match="a sweep has failed"):
            list(model.generate(zoo.PROMPTS, max_new_tokens=3))


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
