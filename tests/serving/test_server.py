"""A server and its clients: the protocol is OpenAI's, and what is answered is what the model says."""

import json

import openai
import pytest
import servers
import torch
import zoo
from browsing import chromium, visit
from conftest import run_module
from transformers import AutoModelForCausalLM, AutoTokenizer

QUESTION = [{"role": "user", "content": "What is a slab?"}]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def server(demo, tmp_path_factory):
    directory = tmp_path_factory.mktemp("server")
    run_module("weights_tools.split", demo, directory / "slabs", "--ranks", 2, "--dtype", "float32", check=True)
    started = servers.Server(directory / "slabs", 2, directory, "--queue", 8, "--grammar")
    yield started.wait_until_ready()
    assert started.stop() == 0, started.log.read_text()


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def model(demo):
    return AutoModelForCausalLM.from_pretrained(demo, dtype="float32")


@pytest.fixture(scope="module")
def tokenizer(demo):
    return AutoTokenizer.from_pretrained(demo)


def chat(client, **fields):
    fields = {"model": "handbook-3m", "messages": QUESTION, "temperature": 0, "max_tokens": 100, **fields}
    return client.chat.completions.create(**fields)


def test_a_completion_is_what_the_model_says(client, model, tokenizer):
    ids = tokenizer("The sliding window")["input_ids"]
    expected = zoo.continuation(model, ids)["token_ids"]
    answer = client.completions.create(model="handbook-3m", prompt=ids, temperature=0, max_tokens=len(expected))
    assert answer.choices[0].text == tokenizer.decode(ids + expected)[len(tokenizer.decode(ids)) :]
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.prompt_tokens == len(ids)
    assert answer.usage.completion_tokens == len(expected)


def test_an_echoed_prompt_has_the_scores_of_transformers(client, model, tokenizer):
    text = "A slab is an HDF5 file that holds the weights of one rank."
    ids = tokenizer(text)["input_ids"]
    options = {"model": "handbook-3m", "temperature": 0, "echo": True, "logprobs": 2}
    choice = client.completions.create(prompt=text, max_tokens=1, **options).choices[0]
    with torch.no_grad():
        logprobs = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
    expected = [float(logprobs[place, id]) for place, id in enumerate(ids[1:])]
    found = choice.logprobs.token_logprobs
    assert found[0] is None
    assert found[1 : len(ids)] == pytest.approx(expected, abs=1e-3)
    assert choice.text.startswith(text)
    assert "".join(choice.logprobs.tokens) == choice.text
    assert [choice.text[offset:][: len(token)] for offset, token in by_offset(choice)] == choice.logprobs.tokens
    best = [max(top.values()) for top in choice.logprobs.top_logprobs[1:]]
    assert best[: len(ids) - 1] == pytest.approx(logprobs.max(-1).values[:-1].tolist(), abs=1e-3)
    scored = client.completions.create(prompt=[ids, ids], max_tokens=0, **options)
    assert [one.text for one in scored.choices] == [text, text]
    assert [one.logprobs.token_logprobs for one in scored.choices] == [found[: len(ids)]] * 2


def test_the_last_score_is_of_the_new_token_even_if_that_ends_the_text(client, tokenizer):
    """Programs that score prompts take all but the last, and compare a token's score with the best as it is."""
    ids = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True)["input_ids"]
    ids += tokenizer(chat(client).choices[0].message.content)["input_ids"]
    options = {"model": "handbook-3m", "temperature": 0, "echo": True, "logprobs": 1, "max_tokens": 1}
    choice = client.completions.create(prompt=[ids], **options).choices[0]
    assert choice.finish_reason == "stop"
    assert len(choice.logprobs.token_logprobs) == len(ids) + 1
    greedy = [own == max(top.values()) for own, top in by_score(choice)]
    assert all(greedy[-20:])
    assert not all(greedy)


def by_score(choice):
    scores = zip(choice.logprobs.token_logprobs, choice.logprobs.top_logprobs, strict=True)
    return list(scores)[1:]


def by_offset(choice):
    return zip(choice.logprobs.text_offset, choice.logprobs.tokens, strict=True)


def test_a_stream_says_what_the_whole_answer_says(server, client):
    whole = chat(client)
    events = server.stream(
        CHAT, messages=QUESTION, temperature=0, max_tokens=100, stream_options={"include_usage": True}
    )
    first, *middle, last, usage = events
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(event["choices"][0]["delta"]["content"] for event in middle) == whole.choices[0].message.content
    assert last["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    assert {event["id"] for event in events} == {first["id"]}
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == whole.usage.total_tokens
    assert all(event["usage"] is None for event in events[:-1])


def test_openais_own_client_streams_with_log_probabilities(client):
    whole = chat(client, logprobs=True, top_logprobs=3)
    streamed = list(chat(client, logprobs=True, top_logprobs=3, stream=True))
    entries = [entry for event in streamed if (had := event.choices[0].logprobs) for entry in had.content]
    assert entries == whole.choices[0].logprobs.content
    assert all(entry.logprob == entry.top_logprobs[0].logprob for entry in entries)
    text = b"".join(bytes(entry.bytes) for entry in entries[:-1]).decode()  # the last token ends the text
    assert text == whole.choices[0].message.content


def test_several_answers_are_drawn_with_seeds_of_their_own(client):
    options = {"temperature": 2, "seed": 7, "max_tokens": 40}
    assert len({choice.message.content for choice in chat(client, n=3, temperature=2).choices}) == 3
    three = chat(client, n=3, **options)
    texts = [choice.message.content for choice in three.choices]
    assert len(set(texts)) == 3
    assert chat(client, **options).choices[0].message.content == texts[0]
    assert three.usage.completion_tokens > 40
    assert three.usage.prompt_tokens == chat(client).usage.prompt_tokens
    streamed = {0: "", 1: "", 2: ""}
    for event in chat(client, n=3, stream=True, **options):
        streamed[event.choices[0].index] += event.choices[0].delta.content or ""
    assert list(streamed.values()) == texts


def test_a_text_ends_before_a_stop_string(client):
    whole = chat(client).choices[0].message.content
    word = whole.split()[3]
    cut = chat(client, stop=["no such text", word]).choices[0]
    assert cut.message.content == whole[: whole.index(word)]
    assert cut.finish_reason == "stop"


def test_an_answer_follows_a_schema(client):
    schema = {"type": "object", "properties": {"slab": {"type": "boolean"}}, "required": ["slab"]}
    schema["additionalProperties"] = False
    form = {"type": "json_schema", "json_schema": {"name": "slabs", "schema": schema, "strict": True}}
    choice = chat(client, response_format=form).choices[0]
    assert choice.finish_reason == "stop"
    assert json.loads(choice.message.content)["slab"] in (True, False)


def test_hardly_any_temperature_is_none(client):
    assert chat(client, temperature=1e-310, seed=1).choices == chat(client).choices
    assert chat(client, temperature=1, top_p=0).choices == chat(client).choices


def test_a_conversation_that_is_too_long_is_told_as_such(client):
    long = [{"role": "user", "content": "slab " * 600}]
    with pytest.raises(openai.BadRequestError) as told:
        chat(client, messages=long)
    assert told.value.code == "context_length_exceeded"


def test_a_token_can_be_ruled_out(client, tokenizer):
    plain = client.completions.create(model="handbook-3m", prompt="A slab", temperature=0, max_tokens=1)
    (id,) = tokenizer.encode(plain.choices[0].text, add_special_tokens=False)
    bias = {str(id): -100}
    other = client.completions.create(
        model="handbook-3m", prompt="A slab", temperature=0, max_tokens=1, logit_bias=bias
    )
    assert other.choices[0].text != plain.choices[0].text


def test_what_several_prompts_begin_with_is_computed_once(client):
    prompt = list(range(2, 200))
    options = {"model": "handbook-3m", "max_tokens": 1, "temperature": 0}
    client.completions.create(prompt=prompt, **options)
    usage = client.completions.create(prompt=prompt, **options).usage
    assert usage.prompt_tokens_details.cached_tokens > 150


def test_more_tokens_than_there_is_room_for_are_as_many_as_there_is(client):
    answer = client.completions.create(model="handbook-3m", prompt=[1] * 500, max_tokens=10_000)
    assert answer.usage.total_tokens <= 512


REFUSED = [
    (CHAT, {"messages": QUESTION, "frobnicate": 1}, 400, "the parameter 'frobnicate' is not supported"),
    (CHAT, {"messages": QUESTION, "model": "gpt-4"}, 404, "this server has 'handbook-3m'"),
    (CHAT, {"messages": QUESTION, "temperature": -1}, 400, "temperature is -1"),
    (CHAT, {"messages": QUESTION, "max_tokens": "many"}, 400, "max_tokens is 'many'"),
    (CHAT, {"messages": QUESTION, "max_tokens": -2}, 400, "max_tokens is -2"),
    (CHAT, {"messages": QUESTION, "repetition_penalty": 1e-42}, 400, "a number from 0.01 to 100"),
    (CHAT, {"messages": QUESTION, "stop": ["a"] * 17}, 400, "at most 16 strings"),
    (CHAT, {"messages": QUESTION, "logit_bias": dict.fromkeys(map(str, range(1025)), 1)}, 400, "at most 1024"),
    (CHAT, {"messages": QUESTION, "response_format": {"type": "json_object", "schema": {}}}, 400, "response_format"),
    (CHAT, {"messages": [1] * 100_000}, 400, "messages is 1"),
    (COMPLETIONS, {"prompt": [None] * 100_000}, 400, "the prompt must be a text, token ids, or a list of either"),
    (COMPLETIONS, {"prompt": ["a", [1, "b"]]}, 400, "the prompt must be a text, token ids, or a list of either"),
    (COMPLETIONS, {"prompt": "a" * 1_000_000}, 400, "1000000 characters"),
    ("/tokenize", {"prompt": "a", "add_generation_prompt": False}, 400, "add_generation_prompt"),
    (CHAT, {"messages": [{"role": "wizard", "content": "x"}]}, 400, "wizard"),
    (CHAT, {"messages": QUESTION, "tool_choice": "required"}, 400, "only auto and none are supported"),
    (CHAT, {"messages": QUESTION, "top_logprobs": 3}, 400, "together with logprobs"),
    (CHAT, {"messages": QUESTION, "n": 0}, 400, "n is 0"),
    (CHAT, {}, 400, "messages is missing"),
    (COMPLETIONS, {"prompt": ""}, 400, "the prompt is empty"),
    (COMPLETIONS, {"prompt": [1] * 600}, 400, "600 tokens"),
    (COMPLETIONS, {"prompt": [99999]}, 400, "99999"),
    (COMPLETIONS, {"prompt": "x", "n": 20}, 400, "at most 8"),
    (COMPLETIONS, {"prompt": "x", "suffix": "y"}, 400, "the parameter 'suffix' is not supported"),
]


@pytest.mark.parametrize(("path", "fields", "status", "sentence"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_done_is_refused_in_a_sentence(server, path, fields, status, sentence):
    found, content = server.post(path, **fields)
    assert found == status
    assert sentence in content["error"]["message"]


def test_what_changes_no_answer_is_ignored(client):
    harmless = {"user": "me", "store": False, "parallel_tool_calls": True, "metadata": {"a": "b"}, "n": None}
    harmless |= {"extra_body": {"skip_special_tokens": True, "add_generation_prompt": True}}
    assert chat(client, **harmless).choices == chat(client).choices


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"x"', b"\xff", b"[" * 100_000, b'{"messages": NaN}'])
def test_a_body_that_is_no_json_object_is_refused(server, body):
    status, content, _ = server.ask("POST", CHAT, body, **servers.JSON)
    assert status == 400
    assert json.loads(content)["error"]["type"] == "invalid_request_error"


def test_a_huge_body_is_refused(server):
    status, content, _ = server.ask("POST", CHAT, b"x" * (9 << 20), **servers.JSON)
    assert status == 413
    assert b"8.00 MiB" in content


def test_pages_of_other_sites_get_nothing(server):
    body = json.dumps({"messages": QUESTION}).encode()
    assert server.ask("POST", CHAT, body, **{"Content-Type": "text/plain"})[0] == 415
    assert server.ask("GET", "/v1/models", Host="rebound.example:80")[0] == 403
    assert server.ask("GET", "/v1/models", Host="[::1]:80")[0] == 200
    _, _, headers = server.ask("POST", CHAT, body, Origin="http://elsewhere.example", **servers.JSON)
    assert not [name for name in headers if name.lower().startswith("access-control")]


def test_other_addresses_tell_what_there_is(server, tokenizer):
    assert server.get("/health") == (200, {"status": "ready", "detail": None})
    assert [model["id"] for model in server.get("/v1/models")[1]["data"]] == ["handbook-3m"]
    assert server.get("/v1/models/handbook-3m")[0] == 200
    assert server.get("/v1/models/other")[0] == server.get("/nothing")[0] == 404
    assert server.get(CHAT)[0] == 405
    text = "The sliding window"
    assert server.post("/tokenize", prompt=text)[1]["tokens"] == tokenizer(text)["input_ids"]
    _, asked = server.post("/tokenize", messages=QUESTION)
    assert asked["count"] == chat_length(tokenizer)
    assert server.post("/tokenize")[0] == 400
    status, page, headers = server.ask("GET", "/")
    assert status == 200
    assert b"<!doctype html>" in page[:100].lower()
    assert "default-src 'none'" in headers["content-security-policy"]


def chat_length(tokenizer) -> int:
    return len(tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True)["input_ids"])


def test_what_the_machines_do_is_told(server, client):
    chat(client)
    servers.until(lambda: server.get("/machines")[1]["totals"]["tokens"] > 0)
    _, told = server.get("/machines")
    assert [rank["rank"] for rank in told["ranks"]] == [0, 1]
    assert all(rank["resident_bytes"] > 0 and 0 <= rank["shares"]["compute"] <= 1.5 for rank in told["ranks"])
    assert (told["status"], told["longest"], told["waiting"]) == ("ready", 512, 0)
    figures = server.ask("GET", "/metrics")[1].decode()
    values = dict(line.rsplit(" ", 1) for line in figures.splitlines() if not line.startswith("#"))
    assert float(values['tpi_requests_total{status="200"}']) > 0
    assert float(values['tpi_tokens_total{kind="new"}']) > 0
    assert float(values["tpi_ready"]) == 1
    ranks = [float(value) for name, value in values.items() if name.startswith("tpi_rank_resident_bytes{")]
    assert len(ranks) == 2
    assert min(ranks) > 0


def test_the_page_asks_this_server(server):
    with chromium() as browser, visit(browser, server.url) as page:
        page.fill("#question", "What is a slab?")
        page.keyboard.press("Enter")
        page.wait_for_selector(".assistant .markdown.text:has-text('A slab is')")
        page.wait_for_selector(".counts")
        page.wait_for_selector("text=handbook-3m")
        page.wait_for_selector("text=rank 1")
