"""Laws of grammars: what is allowed leads to an answer of the schema's form, and the end comes where there is one."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.options.sampling import SamplingOptions
from tpi_mpi.engine.sampling.grammar import Grammar
from tpi_mpi.engine.sampling.grammars import Grammars
from tpi_mpi.engine.sampling.sampler import Sampler
from tpi_mpi.tokenizer.tokenizer import Tokenizer as OurTokenizer

VOCABULARY, END = 1030, 0  # more than the tokenizer's 1024, as of models whose vocab_size was rounded up
FORM = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "count": {"type": "integer", "maximum": 50, "minimum": 0},
    },
    "required": ["name", "count"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def grammars(demo) -> Grammars:
    return Grammars(demo, VOCABULARY, [END])


@pytest.fixture(scope="module")
def tokenizer(demo) -> OurTokenizer:
    return OurTokenizer.load(demo)


def of(grammars: Grammars, schema: dict, ends=(END,)) -> Grammar:
    return grammars.of(json.dumps(schema), ends)


def allowed(grammar: Grammar, drafted=()) -> list[int]:
    return np.flatnonzero(np.isfinite(grammar.restrict(np.zeros(VOCABULARY, np.float32), drafted))).tolist()


def following(grammars: Grammars, schema: dict, token_ids: list[int], ends=(END,)) -> Grammar:
    grammar = of(grammars, schema, ends)
    for token_id in token_ids:
        grammar.see(token_id)
    return grammar


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_drawn_has_the_form(grammars, tokenizer, seed):
    rng, grammar = np.random.default_rng(seed), of(grammars, FORM)
    sampler, said = Sampler(SamplingOptions(temperature=1.0, seed=seed), [], grammar), []
    while not sampler.ended:
        said.append(sampler.choose(rng.normal(0, 3, VOCABULARY).astype(np.float32), len(said)))
        sampler.see(said[-1])
    answer = json.loads(tokenizer.decode(said))
    assert list(answer) == ["name", "count"]
    assert len(answer["name"]) <= 5
    assert 0 <= answer["count"] <= 50
    assert END not in said  # the closing bracket is the end


def test_logits_are_only_ruled_out(grammars):
    logits = np.random.default_rng(1).normal(size=VOCABULARY).astype(np.float32)
    before, restricted = logits.copy(), of(grammars, {"type": "boolean"}).restrict(logits)
    some = np.isfinite(restricted)
    assert restricted.dtype == logits.dtype
    assert 0 < some.sum() < 10
    assert np.array_equal(restricted[some], logits[some])
    assert np.array_equal(logits, before)


def test_a_text_may_end_where_the_schema_is_fulfilled(grammars, tokenizer):
    number = {"type": "integer"}
    assert END not in allowed(of(grammars, number))
    begun = following(grammars, number, tokenizer.encode("12"))
    assert END in allowed(begun)
    assert not begun.ended
    begun.see(END)
    assert begun.ended
    other = following(grammars, number, tokenizer.encode("12"), ends=(7, 2000))
    assert 7 in allowed(other)
    assert END not in allowed(other)


def test_a_fulfilled_schema_that_nothing_can_follow_ends(grammars, tokenizer):
    assert following(grammars, {"type": "object"}, tokenizer.encode("{}")).ended


def test_drafts_are_restricted_and_change_nothing(grammars, tokenizer):
    grammar, said = of(grammars, FORM), tokenizer.encode('{"name": "ab", "count": 12}')
    for place, token_id in enumerate(said):
        for length in range(1, len(said) - place):
            ahead = said[place : place + length]
            assert allowed(grammar, ahead) == allowed(following(grammars, FORM, said[: place + length]))
        assert allowed(grammar, [END, END, 5]) == list(range(VOCABULARY))  # such a draft is wrong anyway
        assert allowed(grammar) == allowed(following(grammars, FORM, said[:place]))
        grammar.see(token_id)
    assert grammar.ended


def test_a_sequence_that_cannot_go_on_ends(tmp_path):
    words = Tokenizer(models.BPE(vocab={"<e>": 0, "{": 1, '"': 2, "a": 3}, merges=[]))
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    words.save(str(tmp_path / "tokenizer.json"))
    grammars = Grammars(tmp_path, 4, [0])
    grammar = of(grammars, {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
    for token_id in (1, 2, 3):
        grammar.see(token_id)
        assert not grammar.ended
    grammar.see(2)  # there is no token with a colon
    assert grammar.ended
    with pytest.raises(UserError, match="json_schema cannot be followed: no token of this model begins an answer"):
        of(grammars, {"type": "integer"})


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"not": {}}, 'Unimplemented keys: ["not"]'),
        ({"type": "strin"}, "Invalid type: strin"),
        ({"type": "string", "pattern": "(?=a)"}, "regex parse error: (?=a) ^^^ error: look-around"),
        ({"$ref": "http://a.example/b"}, "retrieving it failed"),
        ({"enum": []}, "Unsatisfiable schema"),
        ({"const": "\ud800"}, "unexpected end of hex escape"),
    ],
)
def test_a_schema_that_cannot_be_followed_is_refused_in_a_sentence(grammars, schema, words):
    with pytest.raises(UserError) as refusal:
        of(grammars, schema)
    assert str(refusal.value).startswith("json_schema cannot be followed: ")
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json cannot be used for a json_schema"):
        Grammars(tmp_path, 4, [])
