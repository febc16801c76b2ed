"""How the page shows text: the same however it comes, and soon whatever it is."""

import pytest
from browsing import chromium, visit
from conftest import REPOSITORY

PAGE = REPOSITORY / "tpi_mpi" / "serving" / "page" / "index.html"
MARKDOWN = """# Title

One **bold _both_** word, `code <b>`, [a link](https://example.org/a_(b)), 2 * 3 * 4 and snake_case_name.
***all*** ~~gone~~ **2*3** https://example.org/path.

1. first
   - inner `x`

   more of it
2. second

> quoted
> - list

| a | b |
|:--|--:|
| 1 | x \\| y |
after it

```python
<i>print</i>("**")

    indented
```

---
- a


- b
lazy

  > q

1) x
~~~
open *fence*
| a |
"""
SHOW = """([text, size]) => {
    const host = document.createElement("div"), rendering = new Rendering(host);
    for (let at = size; at < text.length + size; at += size) rendering.update(text.slice(0, at));
    return host.innerHTML;
}"""
TIME = """([text]) => {
    const began = performance.now();
    new Rendering(document.createElement("div")).update(text);
    return performance.now() - began;
}"""


@pytest.fixture(scope="module")
def page():
    with chromium() as browser, visit(browser, "about:blank") as page:
        page.route("**/*", lambda route: route.fulfill(status=401))
        page.route("**/page", lambda route: route.fulfill(path=PAGE, content_type="text/html"))
        page.goto("http://page.test/page")
        yield page


def shown(page, text: str, size: int = 1 << 20) -> str:
    """The elements of a text that comes in pieces of so many characters."""
    return page.evaluate(SHOW, [text, size])


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_text_in_pieces_is_shown_as_at_once(page, size):
    assert shown(page, MARKDOWN, size) == shown(page, MARKDOWN)


@pytest.mark.parametrize(
    ("text", "elements"),
    [
        ("**bold _both_**", "<p><strong>bold <em>both</em></strong></p>"),
        ("**2*3** 2 * 3 * 4 a_b_c *x", "<p><strong>2*3</strong> 2 * 3 * 4 a_b_c *x</p>"),
        ("***all*** ~~gone~~ \\*", "<p><strong><em>all</em></strong> <s>gone</s> *</p>"),
        ("`` a`b `` <b>", "<p><code>a`b</code> &lt;b&gt;</p>"),
        ("- a\n\n  3. b", '<ul dir="auto"><li><p>a</p><ol dir="auto" start="3"><li><p>b</p></li></ol></li></ul>'),
        ("a\n1986. b", "<p>a<br>1986. b</p>"),
        ("\\(a\\) \\[b\\,c\\]", "<p>\\(a\\) \\[b\\,c\\]</p>"),
        ("# A\nb\nc\n***", "<h3>A</h3><p>b<br>c</p><hr>"),
        ("> a\n> > b", '<blockquote dir="auto"><p>a</p><blockquote dir="auto"><p>b</p></blockquote></blockquote>'),
        ("[x](data:text/html,y) ![z](/z)", "<p>[x](data:text/html,y) ![z](/z)</p>"),
    ],
)
def test_text_is_marked_up(page, text, elements):
    assert shown(page, text) == elements


@pytest.mark.parametrize(
    "piece", ["*a _b ", "[a](", "```\n", "> ", "- ", " ", "a|", "\\", "![[", "# ", "**a\n", "`` ` "]
)
def test_no_text_takes_long(page, piece):
    text = piece * (200_000 // len(piece))
    assert page.evaluate(TIME, [text]) < 3000
    assert page.evaluate(TIME, [text.replace("\n", "") + "\nx"]) < 3000
