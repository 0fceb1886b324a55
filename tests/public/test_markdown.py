"""The page's Markdown: what texts become, and that nothing else ever comes of a text."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page
from starlette.staticfiles import StaticFiles

from config import HERE
from tests.servers import serving

SHOW = """(text) => {
  const element = document.createElement('div')
  element.append(...markdown(text))
  return element.innerHTML.replaceAll(' target="_blank" rel="noopener noreferrer"', '').replaceAll(' tabindex="0"', '')
}"""


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Iterator[Page]:
    """The page, under its own policy, with what markdown.js exports as globals."""
    with serving(StaticFiles(directory=HERE / "public"), lifespan="off") as url, browser.new_context() as context:
        tab = context.new_page()
        tab.goto(f"{url}/index.html")
        tab.evaluate("async () => { Object.assign(globalThis, await import('/markdown.js')) }")
        yield tab


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("one\ntwo\n\nthree", "<p>one\ntwo</p><p>three</p>"),
        ("# One #hash\n###### Six", "<h2>One #hash</h2><h6>Six</h6>"),
        ("**a** __b__ *c* _d_", "<p><strong>a</strong> <strong>b</strong> <em>c</em> <em>d</em></p>"),
        ("~~e~~ ***f***", "<p><del>e</del> <em><strong>f</strong></em></p>"),
        ("snake_case_name 2 * 3 * 4 a ** b", "<p>snake_case_name 2 * 3 * 4 a ** b</p>"),
        ("**a *b* c**", "<p><strong>a <em>b</em> c</strong></p>"),
        ("\\*a\\* `b", "<p>*a* `b</p>"),
        ("`a` ``b ` c`` `<b>`", "<p><code>a</code> <code>b ` c</code> <code>&lt;b&gt;</code></p>"),
        (
            "- a\n- b\n  1. c\n  2. d\n\n- e",
            '<ul><li>a</li><li>b<ol start="1"><li>c</li><li>d</li></ol></li><li>e</li></ul>',
        ),
        ("3. c\n4. d", '<ol start="3"><li>c</li><li>d</li></ol>'),
        ("1. a\n\n   b\n2. c", '<ol start="1"><li>a<p>b</p></li><li>c</li></ol>'),
        ("It was in\n1984. That was it.", "<p>It was in\n1984. That was it.</p>"),
        ("So:\n- a", "<p>So:</p><ul><li>a</li></ul>"),
        ("> a\n> - b", "<blockquote><p>a</p><ul><li>b</li></ul></blockquote>"),
        ("a\n\n---\n\nb", "<p>a</p><hr><p>b</p>"),
        (
            '[a](https://b.c/d_(e)) ![f](http://g.h "i")',
            '<p><a href="https://b.c/d_(e)">a</a> <a href="http://g.h">f</a></p>',
        ),
        (
            "(https://a.b/c_d). <https://e.f>",
            '<p>(<a href="https://a.b/c_d">https://a.b/c_d</a>). <a href="https://e.f">https://e.f</a></p>',
        ),
        ("[a](javascript:alert(1)) [b](data:text/html,c)", "<p>[a](javascript:alert(1)) [b](data:text/html,c)</p>"),
        ("[a](/b) [c](//d.e)", "<p>[a](/b) [c](//d.e)</p>"),
        ("<b onclick=alert(1)>a</b> &amp;", "<p>&lt;b onclick=alert(1)&gt;a&lt;/b&gt; &amp;amp;</p>"),
    ],
)
def test_what_a_text_becomes(tab: Page, text: str, html: str):
    assert tab.evaluate(SHOW, text) == html


def test_a_code_block_has_its_name_and_a_button_and_keeps_every_character(tab: Page):
    code = 'if a < b:\n\tprint("**x**")\n\n# no heading'
    html = tab.evaluate(SHOW, f"Look:\n```py\n{code}\n```\nand\n~~~\nopen")
    shown = code.replace("<", "&lt;")
    assert html == (
        '<p>Look:</p><figure><figcaption><span>py</span><button type="button">Copy</button></figcaption>'
        f"<pre><code>{shown}</code></pre></figure><p>and</p>"
        '<figure><figcaption><span>text</span><button type="button">Copy</button></figcaption>'
        "<pre><code>open</code></pre></figure>"
    )


def test_a_table_has_a_head_and_sides_and_loses_no_cell(tab: Page):
    html = tab.evaluate(SHOW, "| a | b |\n|:-:|--:|\n| 1 | **2** | 3 |\n| x \\| y |\nend")
    assert html == (
        '<div class="wide"><table><thead><tr><th class="center">a</th><th class="end">b</th></tr></thead><tbody>'
        '<tr><td class="center">1</td><td class="end"><strong>2</strong></td><td>3</td></tr>'
        '<tr><td class="center">x | y</td><td class="end"></td></tr></tbody></table></div><p>end</p>'
    )


MARKS = [
    *"ab1é😀 \n*_`~[]()<>#-+.|:!\\/\"'&",
    "\n\n",
    "**",
    "```",
    "\n- ",
    "\n1. ",
    "  ",
    "\n> ",
    "# ",
    "](https://x.y)",
    "](javascript:x)",
    "https://a.b/",
    "<script>",
    "| a | b |",
    "\n|---|---|\n",
]
TEXTS = st.lists(st.sampled_from(MARKS), max_size=40).map("".join)

LOOK = """([text, cuts]) => {
  const [whole, grown] = [document.createElement('div'), document.createElement('div')]
  whole.append(...markdown(text))
  const writer = new Writer(grown)
  for (let i = 0; i < cuts.length - 1; i += 1) writer.write(text.slice(cuts[i], cuts[i + 1]))
  const elements = [...whole.querySelectorAll('*')]
  return {
    whole: whole.innerHTML,
    grown: grown.innerHTML,
    tags: [...new Set(elements.map(({ localName }) => localName))],
    attributes: [...new Set(elements.flatMap((element) => element.getAttributeNames()))],
    links: elements.filter(({ href }) => href).map(({ protocol }) => protocol),
    text: whole.textContent,
  }
}"""
TAGS = "p h2 h3 h4 h5 h6 ul ol li blockquote hr div table thead tbody tr th td figure figcaption span button pre code a"
KNOWN = {*TAGS.split(), "strong", "em", "del"}


@given(TEXTS, st.lists(st.integers(0, 100), max_size=6))
@settings(max_examples=400)
def test_any_text_becomes_known_elements_alone_and_keeps_its_words(tab: Page, text: str, at: list[int]):
    length = len(text.encode("utf-16-le")) // 2  # as JavaScript counts
    cuts = sorted({0, length, *(cut for cut in at if cut < length)})
    seen = tab.evaluate(LOOK, [text, cuts])
    assert set(seen["tags"]) <= KNOWN
    assert set(seen["attributes"]) <= {"href", "target", "rel", "class", "start", "type", "tabindex"}
    assert set(seen["links"]) <= {"http:", "https:"}
    assert [c for c in seen["text"] if c in "é😀"] == [c for c in text if c in "é😀"]
    assert seen["grown"] == seen["whole"], "what is written in pieces is not what is written at once"


HOSTILE = [
    "*a " * 50000,
    "***a" * 40000,
    "_a" * 60000,
    "[" * 100000,
    "[a](" * 50000,
    "[x [a]" * 30000,
    "`a``b```" * 20000,
    ">" * 100000,
    "- " * 50000,
    "|" * 100000,
    "|a\n" * 30000,
    "\n" * 100000,
    "# " + " " * 100000 + "x",
    "http://" + "." * 100000,
    "http://a" + ")" * 100000,
    "\n".join(" " * i + "- a" for i in range(1000)),
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:8]))
def test_a_hostile_text_is_shown_while_one_waits(tab: Page, text: str):
    tab.set_default_timeout(30_000)
    tab.evaluate(SHOW, text)
