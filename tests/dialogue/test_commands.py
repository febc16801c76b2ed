"""What lines that begin with a slash do."""

import pytest

from tpi_mpi.common.errors import UserError
from tpi_mpi.dialogue.commands import Commands
from tpi_mpi.dialogue.conversation import Conversation
from tpi_mpi.dialogue.settings import Settings


@pytest.fixture
def conversation() -> Conversation:
    return Conversation("Be brief.")


@pytest.fixture
def settings() -> Settings:
    return Settings({"seed": "7", "top_k": None})


@pytest.fixture
def commands(conversation, settings) -> Commands:
    return Commands(conversation, settings)


def last(conversation: Conversation) -> str:
    return conversation.messages()[-1]["content"]


def test_a_question_is_asked_and_two_slashes_are_one(commands, conversation):
    assert commands.take("Why?").asks
    assert last(conversation) == "Why?"
    assert commands.take("//etc is what?").asks
    assert last(conversation) == "/etc is what?"


def test_new_keeps_the_system_prompt_and_system_replaces_it(commands, conversation):
    commands.take("Why?")
    assert not commands.take("/new").asks
    assert conversation.messages() == [{"role": "system", "content": "Be brief."}]
    commands.take("/system Be  kind. ")
    assert last(conversation) == "Be  kind."
    commands.take("/system\nBe\nkind.")
    assert last(conversation) == "Be\nkind."
    commands.take("/system")
    assert conversation.messages() == []


def test_retry_asks_again_and_undo_does_not(commands, conversation):
    commands.take("Why?")
    conversation.answer("Because.")
    assert commands.take("/retry").asks
    assert last(conversation) == "Why?"
    assert not commands.take("/undo").asks
    assert last(conversation) == "Be brief."


def test_save_and_load_find_the_home_directory(commands, conversation, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    commands.take("Why?")
    assert f"saved as {tmp_path / 'a.json'}" in commands.take("/save ~/a.json").said
    commands.take("/new")
    assert commands.take("/load ~/a.json").said.startswith("2 messages of")
    assert last(conversation) == "Why?"


def test_set_sets_clears_and_tells(commands, settings):
    commands.take("/set temperature 0.7")
    commands.take("/set max-tokens 5")
    assert settings.values == {"seed": 7, "temperature": 0.7, "max_tokens": 5}
    assert "top_p as the server wants, top_k as the server wants, seed 7" in commands.take("/set").said
    commands.take("/set seed")
    assert "seed" not in settings.values


def test_help_tells_every_command_and_quit_leaves(commands):
    help = commands.take("/help").said
    assert all(f"{name} " in help for name in commands.names)
    assert commands.take("/quit").leaves


MISTAKES = [
    ("/nothing at all", "there is no command /nothing; /help lists"),
    ("/", "there is no command /;"),
    ("/new start", "/new stands alone; leave out 'start'"),
    ("/save", "the name of a file is missing"),
    ("/load no.json", "no.json does not exist"),
    ("/save no/a.json", "no/a.json cannot be written"),
    ("/save ~nobody.here/a.json", "~nobody.here/a.json is nowhere: "),
    ("/load a\0.json", "cannot be the name of a file; leave out the zero byte"),
    ("/retry", "nothing has been asked"),
    ("/set colour red", "there is no setting 'colour'; the settings are temperature, top_p"),
    ("/set temperature hot", "temperature is 'hot'; a number from 0 up is needed"),
    ("/set temperature nan", "temperature is 'nan'; a number from 0 up is needed"),
    ("/set top_p 1.5", "top_p is '1.5'; a number from 0 to 1 is needed"),
    ("/set top_k 0.5", "top_k is '0.5'; a whole number from 1 up is needed"),
]


@pytest.mark.parametrize(("line", "words"), MISTAKES)
def test_a_mistake_is_a_sentence_and_changes_nothing(commands, conversation, settings, line, words):
    with pytest.raises(UserError) as raised:
        commands.take(line)
    assert words in str(raised.value)
    assert conversation.messages() == [{"role": "system", "content": "Be brief."}]
    assert settings.values == {"seed": 7}
