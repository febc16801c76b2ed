"""What has been said: asked, answered, taken back, saved and loaded."""

import json

import pytest

from tpi_mpi.common.errors import UserError
from tpi_mpi.dialogue.conversation import Conversation


def said(conversation: Conversation) -> list[str]:
    return [message["content"] for message in conversation.messages()]


def two_turns() -> Conversation:
    conversation = Conversation("Be brief.")
    for question, answer in (("a", "b"), ("c", "d")):
        conversation.ask(question)
        conversation.answer(answer)
    return conversation


def test_roles_take_turns_after_the_system_prompt():
    roles = [message["role"] for message in two_turns().messages()]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    assert "system" not in [message["role"] for message in Conversation("").messages()]


def test_retry_takes_back_an_answer_and_undo_the_question_too():
    conversation = two_turns()
    conversation.retry()
    conversation.retry()
    assert said(conversation) == ["Be brief.", "a", "b", "c"]
    conversation.undo()
    assert said(conversation) == ["Be brief.", "a", "b"]
    conversation.undo()
    for command in (conversation.retry, conversation.undo):
        with pytest.raises(UserError, match="nothing has been asked"):
            command()


def test_a_question_without_an_answer_gives_way_to_the_next():
    conversation = two_turns()
    conversation.ask("lost")
    conversation.answer("")
    conversation.ask("e")
    assert said(conversation)[-2:] == ["d", "e"]


def test_what_is_saved_is_loaded(tmp_path):
    conversation, other = two_turns(), Conversation("another")
    conversation.ask("ä 😀\n\ttwo lines")
    conversation.save(tmp_path / "a.json")
    other.load(tmp_path / "a.json")
    assert other.messages() == conversation.messages()
    assert "ä 😀" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_people_read_what_is_saved_as_md(tmp_path):
    two_turns().save(tmp_path / "a.md")
    text = (tmp_path / "a.md").read_text()
    assert text.startswith("## System\n\nBe brief.\n\n## User\n\na\n\n## Assistant\n\nb\n")


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"neither with \.json nor with \.md"):
        two_turns().save(tmp_path / "a.txt")
    assert not list(tmp_path.iterdir())


BAD = [
    ({}, "has no list of messages"),
    ({"messages": [1]}, "without a role and a text"),
    ({"messages": [{"role": "user", "content": None}]}, "without a role and a text"),
    ({"messages": [{"role": "assistant", "content": "a"}]}, "has 'assistant' where 'user' is to speak"),
    ({"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "a"}]}, "where 'assistant' is"),
]


@pytest.mark.parametrize(("content", "words"), BAD)
def test_a_file_that_is_no_conversation_changes_nothing(tmp_path, content, words):
    (tmp_path / "a.json").write_text(json.dumps(content))
    conversation = two_turns()
    with pytest.raises(UserError, match=words):
        conversation.load(tmp_path / "a.json")
    assert conversation.messages() == two_turns().messages()


def test_a_file_that_is_nested_too_deep_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="cannot be read as JSON"):
        two_turns().load(tmp_path / "a.json")


def test_nothing_in_it_can_drive_a_terminal(tmp_path):
    conversation = Conversation("\x1b[2Ja")
    conversation.ask("b\x07\udc80")
    conversation.answer("c\x9b31m")
    assert said(conversation) == ["[2Ja", "b", "c31m"]
    (tmp_path / "a.json").write_text(json.dumps({"messages": [{"role": "user", "content": "\x1b]0;d\n"}]}))
    conversation.load(tmp_path / "a.json")
    assert said(conversation) == ["]0;d\n"]
