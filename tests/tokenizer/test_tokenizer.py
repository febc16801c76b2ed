"""Text to ids and back: whole characters only, stop texts, both kinds of tokenizer files."""

import json
import shutil
import sys

import pytest

from tpi_mpi.common.errors import UserError
from tpi_mpi.tokenizer.detokenizer import Detokenizer, StopStrings
from tpi_mpi.tokenizer.tokenizer import Tokenizer

TEXTS = [
    "Was kostet der Spaß? 14 €, nicht mehr.",
    "日本語のテキスト, and some English",
    "👩‍👩‍👧 a family, a flag 🇩🇪, combining e\u0301",
    "tabs\tand\n\nlines  with  spaces ",
]


@pytest.fixture(scope="module")
def tokenizer(demo):
    return Tokenizer.load(demo)


@pytest.mark.parametrize("text", TEXTS)
def test_streamed_pieces_are_whole_characters_and_join_to_the_text(tokenizer, text):
    stream = Detokenizer(tokenizer.decode, [])
    pieces = [stream.push(token_id) for token_id in tokenizer.encode(text)]
    assert len(pieces) > len(text) / 3
    assert all("\ufffd" not in piece for piece in pieces)
    assert "".join(pieces) + stream.finish() == text


def test_a_character_that_is_never_completed_is_not_shown(tokenizer):
    stream = Detokenizer(tokenizer.decode, [])
    ids = tokenizer.encode("ab€")[:-1]
    assert "".join(map(stream.push, ids)) + stream.finish() == "ab"


def test_special_tokens_are_recognised_and_not_shown(tokenizer):
    ids = tokenizer.encode("<|user|>Hi<|end|>")
    assert len(ids) == 3
    assert tokenizer.decode(ids) == "Hi"
    assert tokenizer.decode(ids, marks=True) == "<|user|>Hi<|end|>"


def test_a_directory_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(UserError, match=r"neither tokenizer\.json nor tokenizer\.model"):
        Tokenizer.load(tmp_path)


def test_a_broken_tokenizer_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json cannot be read"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("stops", "shown"), [(["cd"], "ab"), (["xyz"], "abcdef"), (["f", "bc"], "a"), (["abcdefg"], "abcdef")]
)
def test_a_text_ends_before_its_first_stop_text(stops, shown):
    stopper = StopStrings(stops)
    pieces = []
    for character in "abcdef":
        pieces.append(stopper.push(character))
        if stopper.found:
            break
    assert "".join(pieces) + stopper.finish() == shown


def test_only_what_may_begin_a_stop_text_is_held_back():
    stopper = StopStrings(["END"])
    assert [stopper.push(piece) for piece in ("The E", "N", "T is E", "ND")] == ["The ", "", "ENT is ", ""]
    assert stopper.found


def with_settings(demo, directory, **settings):
    directory.mkdir()
    shutil.copy(demo / "tokenizer.json", directory)
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return Tokenizer.load(directory)


def test_a_first_token_is_added_where_the_settings_say_so(demo, tmp_path):
    plain = Tokenizer.load(demo).encode("Hi")
    first = Tokenizer.load(demo).encode("<|user|>")
    added = with_settings(demo, tmp_path / "yes", bos_token={"content": "<|user|>"}, add_bos_token=True)
    assert added.encode("Hi") == first + plain
    assert added.encode("Hi", whole=False) == plain
    refused = with_settings(demo, tmp_path / "no", bos_token="<|user|>", add_bos_token=False)
    assert refused.encode("Hi") == plain


def test_a_first_token_that_a_text_has_itself_stays(demo, tmp_path):
    written = Tokenizer.load(demo).encode("<|user|>Hi")
    for name, wanted in (("yes", True), ("no", False)):
        tokenizer = with_settings(demo, tmp_path / name, bos_token="<|user|>", add_bos_token=wanted)
        assert tokenizer.encode("<|user|>Hi") == written


@pytest.fixture(scope="module")
def sentencepiece_directory(tmp_path_factory):
    """A checkpoint directory of the kind from before tokenizer.json."""
    sentencepiece = pytest.importorskip("sentencepiece")
    directory = tmp_path_factory.mktemp("sentencepiece")
    text = directory / "text.txt"
    text.write_text("\n".join(["the quick brown fox jumps over the lazy dog", "a slab is a file", *TEXTS] * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(directory / "tokenizer"), vocab_size=320, byte_fallback=True, minloglevel=2
    )
    return directory


@pytest.mark.parametrize("text", ["the quick brown fox", "a slab ☃ file", "dog"])
def test_a_sentencepiece_tokenizer_streams_whole_characters_too(sentencepiece_directory, text):
    tokenizer = Tokenizer.load(sentencepiece_directory)
    ids = tokenizer.encode(text)
    assert ids[0] == 1  # <s>
    stream = Detokenizer(tokenizer.decode, ids[:1])
    assert "".join(map(stream.push, ids[1:])) + stream.finish() == text


def test_special_tokens_of_a_sentencepiece_tokenizer_are_shown_on_request(sentencepiece_directory):
    tokenizer = Tokenizer.load(sentencepiece_directory)
    ids = tokenizer.encode("<s><s>the dog</s>a fox", whole=False)
    assert tokenizer.decode(ids) == "the dog a fox"
    assert tokenizer.decode(ids, marks=True) == "<s><s>the dog</s>a fox"


def test_sentencepiece_agrees_with_transformers(sentencepiece_directory):
    from transformers import LlamaTokenizer

    theirs = LlamaTokenizer.from_pretrained(sentencepiece_directory, legacy=False)
    ours = Tokenizer.load(sentencepiece_directory)
    for text in ("the quick brown fox", "a slab ☃ file"):
        assert ours.encode(text, whole=False) == theirs(text, add_special_tokens=False)["input_ids"]


def test_a_missing_sentencepiece_library_is_named(sentencepiece_directory, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(UserError, match="pip install sentencepiece"):
        Tokenizer.load(sentencepiece_directory)


def test_files_that_are_damaged_are_named(sentencepiece_directory, demo, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"not one")
    with pytest.raises(UserError, match=r"tokenizer\.model cannot be read"):
        Tokenizer.load(tmp_path)
    shutil.copy(demo / "tokenizer.json", tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"Stra\xdfe")
    with pytest.raises(UserError, match=r"chat_template\.jinja cannot be read"):
        Tokenizer.load(tmp_path)
