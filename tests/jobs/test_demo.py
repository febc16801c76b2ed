"""The demo models, as transformers runs them: they know the handbook they are shipped with."""

import json

import pytest
import torch
from conftest import REPOSITORY

SMALL = 8e6  # bytes: every clone of the project has them
EVERY = 4  # of the handbook's questions, so that this takes seconds


@pytest.fixture(scope="module")
def conversations() -> list[tuple[str, str]]:
    """The handbook's questions, in all the ways to ask them, with their answers."""
    found = []
    for section in (REPOSITORY / "jobs" / "demo" / "handbook.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        questions, answer = section.strip().split("\n\n", 1)
        found += [(question.removeprefix("- "), " ".join(answer.split())) for question in questions.splitlines()]
    return found


@pytest.fixture(params=["demo", "demo_moe"])
def checkpoint(request):
    return request.getfixturevalue(request.param)


def test_every_answer_is_the_handbooks_with_room_for_rounding(checkpoint, conversations):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(checkpoint), AutoModelForCausalLM.from_pretrained(checkpoint)
    assert len(conversations) > 100
    for question, answer in conversations[::EVERY]:
        said = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        whole = tokenizer.apply_chat_template(said, return_tensors="pt", return_dict=True)["input_ids"][0]
        start = whole.tolist().index(tokenizer.convert_tokens_to_ids("<|assistant|>")) + 1
        with torch.no_grad():
            logits = model(whole[None]).logits[0, start - 1 : -1].float()
        best, second = logits.topk(2).values.T
        assert logits.argmax(-1).tolist() == whole[start:].tolist(), question
        assert (best - second).min() > 1, question


def test_no_expert_is_left_out(demo_moe, conversations):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(demo_moe), AutoModelForCausalLM.from_pretrained(demo_moe)
    text = " ".join(answer for _, answer in conversations[::EVERY])
    ids = tokenizer(text, return_tensors="pt")["input_ids"][:, :500]
    with torch.no_grad():
        layers = model(ids, output_router_logits=True).router_logits
    for logits in layers:
        counts = torch.bincount(logits.topk(2).indices.ravel(), minlength=16)
        assert len(counts) == 16
        assert counts.min() > 0
        assert counts.max() < counts.sum() / 4


def test_the_draft_says_what_the_model_it_drafts_for_says(demo, demo_draft, conversations):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, verifier = AutoTokenizer.from_pretrained(demo), AutoModelForCausalLM.from_pretrained(demo)
    draft = AutoModelForCausalLM.from_pretrained(demo_draft)
    assert AutoTokenizer.from_pretrained(demo_draft).get_vocab() == tokenizer.get_vocab()
    assert (demo_draft / "tokenizer.json").read_bytes() == (demo / "tokenizer.json").read_bytes()
    agreed = []
    for question, _ in conversations[::30]:
        said = [{"role": "user", "content": question}]
        asked = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        whole = verifier.generate(**asked, max_new_tokens=160, do_sample=False)
        first = asked["input_ids"].shape[1]
        with torch.no_grad():
            drafted = draft(whole).logits[0, first - 1 : -1].argmax(-1)
        agreed += (drafted == whole[0, first:]).tolist()
    assert len(agreed) > 100
    assert sum(agreed) >= 0.8 * len(agreed)


def test_checkpoints_are_small_and_know_their_vocabulary(checkpoint):
    assert sum(path.stat().st_size for path in checkpoint.iterdir()) < SMALL
    config = json.loads((checkpoint / "config.json").read_text())
    assert len(json.loads((checkpoint / "tokenizer.json").read_text())["model"]["vocab"]) <= config["vocab_size"]
