"""Questions and answers, by the server's protocol."""

import json
import signal
import threading
from http.client import HTTPConnection
from itertools import repeat

import pytest
from fake_server import MODEL, FakeServer, end, text

from tpi_mpi.common.errors import TpiError, UserError
from tpi_mpi.dialogue.answer import Answer
from tpi_mpi.dialogue.conversation import Conversation
from tpi_mpi.dialogue.exchange import Exchange
from tpi_mpi.dialogue.remote.activity import activity, described
from tpi_mpi.dialogue.remote.client import Client
from tpi_mpi.dialogue.remote.events import Piece
from tpi_mpi.dialogue.remote.readiness import wait_until_ready
from tpi_mpi.dialogue.settings import Settings


@pytest.fixture
def server():
    with FakeServer() as server:
        yield server


def exchange(server: FakeServer, **given: str) -> Exchange:
    conversation = Conversation("Be brief.")
    conversation.ask("Hello, world")
    return Exchange(Client(server.url, server.key), conversation, Settings(given))


def last(exchange: Exchange) -> dict:
    return exchange.conversation.messages()[-1]


def test_an_answer_streams_into_the_conversation(server):
    shown = []
    talk = exchange(server, temperature="0.5", max_tokens="9")
    answer = talk.answer(shown.append)
    assert [piece.text for piece in shown if piece.text] == ["You ", "said: ", "Hello, ", "world "]
    assert last(talk) == {"role": "assistant", "content": "You said: Hello, world "}
    assert answer.figures().startswith("4 tokens, ")
    (body,) = server.bodies
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["model"], body["temperature"], body["max_tokens"], body["stream"]) == (MODEL, 0.5, 9, True)
    assert "top_p" not in body


def test_the_first_piece_is_shown_before_the_last_is_made(server):
    seen = threading.Event()

    def script(body):
        yield text("first")
        assert seen.wait(10)
        yield from end(1)

    server.script = script
    assert exchange(server).answer(lambda piece: piece.text and seen.set()).text == "first"


def test_thoughts_are_no_part_of_the_conversation(server):
    server.script = lambda body: [text("hm", "reasoning_content"), text("Yes."), *end(3, "length")]
    shown = []
    talk = exchange(server)
    assert talk.answer(shown.append).cut
    assert shown[0].thought == "hm"
    assert last(talk)["content"] == "Yes."


def test_ctrl_c_stops_the_answer_and_keeps_what_there_is(server):
    def script(body):
        yield text("partly")
        yield from repeat("")

    server.script = script
    talk = exchange(server)
    with pytest.raises(KeyboardInterrupt):
        talk.answer(lambda piece: signal.raise_signal(signal.SIGINT))
    assert last(talk) == {"role": "assistant", "content": "partly"}
    assert server.stopped.wait(10)


def test_ctrl_c_before_the_first_piece_closes_the_connection(server, monkeypatch):
    def interrupted(connection):
        connections.append(connection)
        raise KeyboardInterrupt

    connections = []
    monkeypatch.setattr(HTTPConnection, "getresponse", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Client(server.url).health()
    assert connections[0].sock is None


def test_an_error_in_the_stream_is_told_and_what_there_is_stays(server):
    server.script = lambda body: [text("partly"), json.dumps({"error": {"message": "a rank\x1b is lost"}})]
    talk = exchange(server)
    with pytest.raises(TpiError, match="the server could not go on: a rank is lost"):
        talk.answer(lambda piece: None)
    assert last(talk)["content"] == "partly"


ENDS = [
    ([text("partly")], "the server stopped in the middle of the answer"),
    (["{"], "which is no piece of an answer"),
    (["[]"], "which is no piece of an answer"),
    ([json.dumps({"choices": [{"delta": {"content": 5}}]})], "which is no piece of an answer"),
]


@pytest.mark.parametrize(("events", "words"), ENDS)
def test_an_answer_that_breaks_off_is_a_sentence(server, events, words):
    server.script = lambda body: events
    with pytest.raises(TpiError, match=words):
        exchange(server).answer(lambda piece: None)


REFUSALS = [
    ((400, "too\x1b[2J long", {}), UserError, r"the server refuses this: too\[2J long"),
    ((429, "full", {"Retry-After": "5"}), TpiError, r"too much to do \(full\); try again in 5 seconds"),
    ((503, "the engine is loading", {}), TpiError, "the server cannot answer: the engine is loading"),
]


@pytest.mark.parametrize(("refusal", "kind", "words"), REFUSALS)
def test_a_refusal_is_a_sentence_and_leaves_the_question(server, refusal, kind, words):
    server.refusal = refusal
    talk = exchange(server)
    with pytest.raises(kind, match=words) as raised:
        talk.answer(lambda piece: None)
    assert type(raised.value) is kind
    assert last(talk) == {"role": "user", "content": "Hello, world"}


def test_whoever_knows_better_why_the_server_failed_is_asked(server):
    def explain():
        raise TpiError("it has ended")

    server.script = lambda body: []
    talk = Exchange(Client(server.url), Conversation(), Settings({}), explain)
    with pytest.raises(TpiError, match="it has ended"):
        talk.answer(lambda piece: None)


def test_for_a_mistake_of_the_person_nobody_is_asked_why(server):
    server.refusal = (400, "too long", {})
    talk = Exchange(Client(server.url), Conversation(), Settings({}), lambda: pytest.fail("asked"))
    with pytest.raises(UserError, match="too long"):
        talk.answer(lambda piece: None)


@pytest.mark.parametrize(("pieces", "rate"), [((2.0, 2.05), "2.0"), ((2.0, 5.0), "1.0")])
def test_what_comes_at_once_is_timed_from_the_question_on(monkeypatch, pieces, rate):
    times = iter((0.0, *pieces))
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    answer = Answer()
    answer.take(Piece("a "))
    answer.take(Piece("b c d", tokens=4))
    assert answer.figures() == f"4 tokens, {rate} tokens/s, the first after 2.00 s"


def test_a_server_that_is_not_there_is_a_sentence():
    with FakeServer() as server:
        url = server.url
    with pytest.raises(TpiError, match=rf"no server answers at {url} \(Connection refused\); start one with"):
        Client(url).model()


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://a", "http://", "http://a:b", "http://[a"])
def test_a_url_of_no_server_is_refused(url):
    with pytest.raises(UserError, match="the address of a server is needed"):
        Client(url)


def test_the_key_is_sent_and_a_wrong_one_is_told():
    with FakeServer(key="secret") as server:
        assert Client(f"{server.url}/v1/", "secret").model() == MODEL
        with pytest.raises(UserError, match=r"does not accept the API key \(wrong key\); name a file"):
            Client(server.url, "guess").model()


def test_a_server_that_loads_is_waited_for_and_one_that_failed_is_not(server, capsys):
    server.health = [(503, {"status": "loading", "detail": "half"}), (200, {"status": "ready"})]
    wait_until_ready(Client(server.url))
    assert len(server.health) == 1
    server.health = [(503, {"status": "failed", "detail": "the disk is gone"})]
    with pytest.raises(TpiError, match="the server is failed: the disk is gone"):
        wait_until_ready(Client(server.url))
    assert capsys.readouterr().err == ""


def test_how_far_the_sweep_is(server):
    assert activity(Client(server.url)) == "37 of 160 blocks, 12 s left for this token"
    assert described({"status": "restarting\x1b", "sweep": None}) == "the server is restarting"
    assert described({"status": "ready", "sweep": None}) == described({}) == ""
    assert described({"sweep": {"done": 3, "blocks": None, "left_s": 2}}) == "2 s left for this token"


def test_a_server_that_tells_nothing_of_its_machines_is_no_mistake():
    with FakeServer(key="secret") as server:
        assert activity(Client(server.url)) == ""
