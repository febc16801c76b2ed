"""The page in a browser, before a server that answers as this file says."""

import asyncio
import json
import re
import socket
import threading

import pytest
import uvicorn
from browsing import chromium, visit
from conftest import REPOSITORY
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.routing import Route

from tpi_mpi.serving.page.policy import content_security_policy

MARKDOWN = """# Title

One **bold** word and [a link](https://example.org/a). Never <img src=x onerror="alert(1)">,
[this](javascript:alert(1)) or <script>alert(1)</script>.

| a | b |
|:--|--:|
| 1 | 2 |

```python
<i>print</i>("**")
```
"""
GIB = 1 << 30
RANK = {"rank": 0, "host": "nuc1", "threads": 4, "kernels": ["avx512 int4"], "resident_bytes": GIB, "pinned_blocks": 20}
RANK |= {"budget_bytes": 2 * GIB, "streamed_blocks": 44, "streamed_bytes": 3 * GIB, "disk_bytes_per_s": 1.5e9}
RANK |= {"experts": {"hit_rate": 0.71}, "shares": {"fetch": 0.9, "stall": 0.55, "compute": 0.2, "allreduce": 0.15}}
MACHINES = {"model": "demo", "status": "ready", "running": 1, "waiting": 3, "rates": {"tokens_per_s": 3.14}}
MACHINES |= {"ranks": [RANK, {"rank": 1, "host": "nuc2", "shares": None}], "sequences": 16}
MACHINES |= {"sweep": {"seconds": 3.2, "blocks": 160, "done": 40, "bytes": 7, "left_s": 11.5}}


class Server:
    """The API, as far as the page uses it. What is asked last chooses the answer."""

    def __init__(self):
        self.key, self.asked = None, []
        routes = [Route("/", self.page), Route("/machines", self.told), Route("/v1/models", self.told)]
        self.app = Starlette(routes=[*routes, Route("/v1/chat/completions", self.chat, methods=["POST"])])

    async def page(self, request):
        html = (REPOSITORY / "tpi_mpi/serving/page/index.html").read_text(encoding="utf-8")
        return HTMLResponse(html, headers={"Content-Security-Policy": content_security_policy(html)})

    def refused(self, request) -> bool:
        return self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}"

    async def told(self, request):
        if self.refused(request):
            return JSONResponse({"error": {"message": "Which key?"}}, 401)
        return JSONResponse({"data": [{"id": "demo"}]} if "models" in request.url.path else MACHINES)

    async def chat(self, request):
        self.asked.append(await request.json())
        last = self.asked[-1]["messages"][-1]["content"]
        if "crowd" in last:
            return JSONResponse({"error": {"message": "Too many wait."}}, 429, {"Retry-After": "7"})
        return StreamingResponse(self.events(last), media_type="text/event-stream")

    async def events(self, last: str):
        def event(delta: dict, **more) -> str:
            return f"data: {json.dumps({'choices': [{'delta': delta, 'finish_reason': None}], **more})}\n\n"

        text = MARKDOWN if "markdown" in last else f"{len(self.asked)} to {last}"
        yield event({"role": "assistant", "content": ""}) + ": waiting\n\n"
        yield event({"reasoning_content": "Let me see."}) if "think" in last else ""
        for at in range(0, len(text), 7):
            yield event({"content": text[at : at + 7]})
        if "hold" in last:
            await asyncio.Event().wait()  # until the page hangs up
        if "fail" in last:
            yield 'data: {"error": {"message": "Rank 2 was lost."}}\n\n'
            return
        usage = {"prompt_tokens": 9, "completion_tokens": 21, "prompt_tokens_details": {"cached_tokens": 4}}
        yield event({}, usage=usage) + "data: [DONE]\n\n"


@pytest.fixture(scope="module")
def server():
    server = Server()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        runner = uvicorn.Server(uvicorn.Config(server.app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=runner.run, kwargs={"sockets": [listening]})
        thread.start()
        server.url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        yield server
        runner.should_exit = True
        thread.join()


@pytest.fixture
def page_url(server):
    server.key = None
    return server.url


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser, page_url):
    with visit(browser, page_url) as page:
        yield page


def ask(page, question: str, until: str = "#send:visible") -> None:
    page.fill("#question", question)
    page.keyboard.press("Enter")
    page.wait_for_selector(f".assistant >> nth=-1 >> text={until[5:]}" if until.startswith("text=") else until)


def texts(page) -> list[str]:
    return page.locator(".message > .text").all_inner_texts()


def test_an_answer_is_shown_as_markdown_and_never_as_html(page, server):
    ask(page, "think in markdown", "text=21 tokens")
    answer = page.locator(".markdown.text")
    assert answer.locator("h3, strong, td").all_inner_texts() == ["Title", "bold", "1", "2"]
    assert answer.locator("pre").inner_text() == '<i>print</i>("**")'
    links = answer.locator("a").evaluate_all("links => links.map(({href, target, rel}) => [href, target, rel])")
    assert links == [["https://example.org/a", "_blank", "noopener noreferrer"]]
    assert answer.locator("img, script, i").count() == 0
    assert "[this](javascript:alert(1)) or <script>" in answer.inner_text()
    assert page.locator(".reasoning").text_content() == "ReasoningLet me see."
    assert "9 tokens read, 4 of them known" in page.locator(".counts").inner_text()
    assert server.asked[-1]["messages"] == [{"role": "user", "content": "think in markdown"}]


def test_stopping_keeps_what_there_is(page):
    ask(page, "hold it", "text=to hold it")
    page.keyboard.press("Escape")
    page.wait_for_selector(".counts:has-text('stopped')")
    page.reload()
    assert re.fullmatch(r"\d+ to hold it", texts(page)[1])


def test_edits_and_retries_replace_what_follows(page, server):
    ask(page, "one")
    ask(page, "two")
    assert len(texts(page)) == 4
    asked = len(server.asked)
    page.get_by_role("button", name="Retry").last.click()
    page.wait_for_selector(f"text={asked + 1} to two")
    before = texts(page)
    page.locator(".user").first.hover()
    page.get_by_role("button", name="Edit").first.click()
    page.locator(".user textarea").fill("three")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=to three")
    assert texts(page) == ["three", f"{len(server.asked)} to three"]
    assert server.asked[-1]["messages"] == [{"role": "user", "content": "three"}]
    page.get_by_role("button", name="Undo").click()
    assert texts(page) == before


def test_a_draft_outlives_another_conversation_and_the_page(page):
    page.fill("#question", "half a thought")
    page.click("#new-conversation")
    assert page.input_value("#question") == ""
    page.click("#conversations .name")
    assert page.input_value("#question") == "half a thought"
    page.reload()
    assert page.input_value("#question") == "half a thought"


def test_a_name_is_written_while_an_answer_ends(page):
    ask(page, "hold it", "text=to hold it")
    page.click("#conversations [aria-label^=Rename]")
    page.keyboard.type("A name")
    page.evaluate("stopAnswer()")
    page.wait_for_selector(".counts:has-text('stopped')")
    page.keyboard.press("Enter")
    assert page.locator("#conversations .name").all_inner_texts() == ["A name"]


def test_another_window_follows_an_answer_and_does_not_spoil_it(page):
    ask(page, "hold it", "text=to hold it")
    other = page.context.new_page()
    other.goto(page.url)
    assert other.locator(".waiting").inner_text() == "Another window writes this"
    ask(other, "me too", "#notice:has-text('Another window writes an answer here.')")
    other.locator(".user").hover()
    other.get_by_role("button", name="Edit").click()
    other.fill(".user textarea", "half a thought")
    page.keyboard.press("Escape")
    other.wait_for_selector(".counts:has-text('stopped')")
    assert texts(other) == texts(page)[1:]
    assert other.input_value(".user textarea") == "half a thought"
    assert other.input_value("#question") == "me too"


def test_conversations_are_kept_and_a_broken_one_spoils_none(page, server):
    page.click("#open-settings")
    page.fill("[name=system]", "Be brief.")
    page.fill("[name=temperature]", "0.5")
    page.click("#settings .solid")
    ask(page, "first question")
    assert server.asked[-1]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert server.asked[-1]["temperature"] == 0.5
    assert "top_p" not in server.asked[-1]
    page.click("#new-conversation")
    ask(page, "second question")
    page.evaluate('localStorage.setItem(\'tpi_mpi.conversation.x\', \'{"id": "x", "messages": [7]}\')')
    page.reload()
    names = page.locator("#conversations .name")
    assert names.all_inner_texts() == ["second question", "first question"]
    names.last.click()
    assert texts(page)[0] == "first question"
    page.locator("[data-current] [aria-label^=Delete]").click()
    assert names.all_inner_texts() == ["second question"]
    page.get_by_role("button", name="Undo").click()
    assert names.count() == 2


def test_full_storage_is_said(page):
    page.evaluate("() => { Storage.prototype.setItem = () => { throw new Error('full'); }; }")
    ask(page, "anything")
    assert "keeps no more conversations" in page.locator("#notice").inner_text()
    assert len(texts(page)) == 2


def test_errors_stand_where_the_answer_would_and_can_be_retried(page, server):
    ask(page, "fail", "text=Rank 2 was lost.")
    assert re.fullmatch(r"\d+ to fail", texts(page)[1])
    asked = len(server.asked)
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector(f"text={asked + 1} to fail")
    page.click("#new-conversation")
    ask(page, "crowd", "text=Too many wait. Try again in 7 s.")


def test_a_server_that_falls_silent_is_told(page):
    page.clock.install()
    ask(page, "hold it", "text=to hold it")
    page.clock.fast_forward(61_000)
    page.wait_for_selector(".failure:has-text('The server does not answer.')")


def test_machines_are_shown(page):
    rank = page.locator(".rank").first
    rank.wait_for()
    assert rank.get_by_role("meter").get_attribute("aria-valuenow") == "50"
    for text in ("nuc1", "1.00 GiB of 2.00 GiB", "44 blocks, 3.00 GiB", "1.50 GB/s", "71 %", "55 % waiting for disk"):
        assert text in rank.inner_text()
    assert "10 % other" in rank.get_by_role("img").get_attribute("aria-label")
    assert page.get_by_role("progressbar").get_attribute("aria-valuetext").startswith("Block 40 of 160, 1")
    assert page.locator("#rate").inner_text() == "3.1 tokens/s"


def test_who_waits_is_told_why(page):
    ask(page, "hold it", ".waiting:visible:has-text('Next token in')")
    page.click("#stop")


def test_a_key_is_asked_for_and_kept(page, server):
    page.fill("#question", "hello")
    server.key = "secret"  # from now on, whatever the page asks opens the dialog
    page.keyboard.press("Enter")
    page.wait_for_selector("#key[open]")
    for key in ("wrong", "secret"):
        page.fill("[name=key]", key)
        page.keyboard.press("Enter")
        page.wait_for_selector("text=The server has refused" if key == "wrong" else "text=to hello")
    page.reload()
    page.wait_for_selector(".rank")
    kept = page.evaluate("[sessionStorage, localStorage].map((each) => each.getItem('tpi_mpi.key'))")
    assert kept == ["secret", None]


def test_nothing_overflows_a_phone(page):
    page.set_viewport_size({"width": 360, "height": 740})
    ask(page, "markdown " + "wide" * 100, "text=21 tokens")
    for opener, drawer in (("#pill", "#machines"), ("#open-shelf", "#shelf")):
        page.click(opener)
        page.wait_for_selector(f"{drawer}:visible")
        page.keyboard.press("Escape")
        page.wait_for_selector(drawer, state="hidden")
    wide = "[document.documentElement, byId('scroller')].map((each) => each.scrollWidth - each.clientWidth)"
    assert page.evaluate(wide) == [0, 0]
