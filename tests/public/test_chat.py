"""The chat page, as a reader uses it: a real Chromium, the app on one socket, a model server of ours on another."""

import asyncio
import re
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from anyio.from_thread import start_blocking_portal
from playwright.sync_api import Browser, Error, Locator, Page, expect

from cli.devserver import banner
from config import HERE, ROUTES, Config
from loader import load_routes
from tests.conftest import TOKEN, Serve
from tests.processes import running
from tests.servers import Answer, Exchange, ModelServer, free_port, two_words, wait_until
from tests.tokens import SIGNED, visitor

Scheme = Literal["light", "dark"]

LOST = "The connection was lost. Trying to come back to the answer."


def enter(page: Page, url: str, conversation: str = "") -> None:
    page.goto(f"{url}/#token={TOKEN}" + (f"&conversation={conversation}" if conversation else ""))


def box(page: Page) -> Locator:
    return page.get_by_role("textbox", name="Message")


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def say(page: Page, text: str) -> None:
    box(page).fill(text)
    box(page).press("Enter")


def expect_log(page: Page, *texts: str | re.Pattern[str]) -> None:
    """Expect the conversation to be these texts: what was asked, answered and noted."""
    expect(page.get_by_role("log").locator("p")).to_have_text(list(texts))


def words(*pieces: str) -> tuple[Answer, list[threading.Event]]:
    """A model that says these pieces, each but the first when its event is set."""
    goes_on = [threading.Event() for _ in pieces[1:]]

    async def answer(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.delta(pieces[0])
        for event, piece in zip(goes_on, pieces[1:], strict=True):
            await asyncio.to_thread(event.wait, 20)
            await exchange.delta(piece)
        await exchange.delta("", "stop")
        await exchange.done()

    return answer, goes_on


class Network:
    """A way to a server that can be cut: open connections end, and new ones are refused, until it is restored."""

    def __init__(self, server: str) -> None:
        self.server = httpx.URL(server)
        self.url = ""
        self.is_cut = False
        self.open: set[asyncio.StreamWriter] = set()

    @contextmanager
    def running(self) -> Generator["Network"]:
        with start_blocking_portal() as portal:
            self.portal = portal
            listener = portal.call(asyncio.start_server, self.carry, "127.0.0.1", 0)
            self.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
            try:
                yield self
            finally:
                self.cut()
                portal.call(listener.close)

    def cut(self) -> None:
        self.portal.call(self._cut)

    def _cut(self) -> None:
        self.is_cut = True
        for writer in self.open:
            writer.transport.abort()

    def restore(self) -> None:
        self.is_cut = False

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_cut:
            return writer.transport.abort()
        there, back = await asyncio.open_connection(self.server.host, self.server.port)
        self.open |= {writer, back}
        await asyncio.gather(self.pump(reader, back), self.pump(there, writer))
        self.open -= {writer, back}

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()


def states(url: str, page: Page) -> list[str]:
    """How the messages of the page's conversation ended, as the server kept it."""
    path = page.url.replace("/#conversation=", "/api/conversations/")
    answer = httpx.get(path, headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False)
    return [message["state"] for message in answer.json()["data"]["messages"]] if answer.is_success else []


async def hangs(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.delta("Hel")
    await exchange.hang()


def test_a_first_message_is_answered(serve: Serve, model: ModelServer, page: Page):
    enter(page, serve(openai_base_url=model.url, model_smart="big"))
    expect(box(page)).to_be_focused()
    expect(page.get_by_text("What is on your mind?")).to_be_visible()
    say(page, "Grüße 👋")
    expect_log(page, "Grüße 👋", "Hello")
    expect(box(page)).to_have_value("")
    expect(box(page)).to_be_focused()
    expect(page.get_by_text("What is on your mind?")).to_be_hidden()
    assert (model.asked[0]["model"], model.asked[0]["messages"]) == ("big", [{"role": "user", "content": "Grüße 👋"}])


def test_an_answer_is_seen_piece_by_piece_and_heard_whole(serve: Serve, model: ModelServer, page: Page):
    seen = threading.Event()

    async def in_two_pieces(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.delta("Hel")
        await asyncio.to_thread(seen.wait, 10)
        await exchange.delta("lo", "stop")
        await exchange.done()

    model.answer = in_two_pieces
    enter(page, serve(openai_base_url=model.url))
    say(page, "Hi")
    written = page.get_by_text("Hel", exact=True)
    expect(written).to_be_visible()
    expect(page.get_by_role("status")).to_have_text("The answer is being written.")
    assert written.evaluate("piece => piece.closest('[role=log], [role=status], [aria-live]')") is None
    expect_log(page, "Hi")
    assert page.get_by_role("log").get_attribute("aria-live") == "polite"
    seen.set()
    expect_log(page, "Hi", "Hello")
    expect(page.get_by_role("status")).to_have_text("")


def test_stop_closes_the_upstream_and_the_answer_can_be_had_anew(serve: Serve, model: ModelServer, page: Page):
    model.answer = hangs
    url = serve(openai_base_url=model.url)
    enter(page, url)
    say(page, "Hi")
    expect(page.get_by_text("Hel", exact=True)).to_be_visible()
    assert model.aborted == 0
    button(page, "Stop").click()
    expect_log(page, "Hi", "Hel", "Stopped.")
    wait_until(lambda: model.aborted == 1)
    wait_until(lambda: states(url, page) == ["done", "stopped"])
    page.reload()
    expect_log(page, "Hi", "Hel", "Stopped.")
    model.answer = two_words
    button(page, "Ask again").click()
    expect_log(page, "Hi", "Hello")
    assert model.asked[1]["messages"] == [{"role": "user", "content": "Hi"}]
    assert states(url, page) == ["done", "done"]


def test_a_double_click_sends_and_does_not_stop(serve: Serve, model: ModelServer, page: Page):
    model.answer = hangs
    enter(page, serve(openai_base_url=model.url))
    box(page).fill("Hi")
    button(page, "Send").dblclick()
    expect(page.get_by_text("Hel", exact=True)).to_be_visible()
    expect(button(page, "Stop")).to_be_visible()


def test_a_reload_finds_the_conversation_again(serve: Serve, model: ModelServer, page: Page):
    enter(page, serve(openai_base_url=model.url, model_fast="tiny"))
    page.get_by_label("Model").select_option("Fast")
    say(page, "one")
    expect_log(page, "one", "Hello")
    page.reload()
    expect_log(page, "one", "Hello")
    expect(page.get_by_label("Model")).to_have_value("fast")
    say(page, "two")
    expect_log(page, "one", "Hello", "two", "Hello")
    assert [message["content"] for message in model.asked[1]["messages"]] == ["one", "Hello", "two"]
    assert model.asked[1]["model"] == "tiny"


def test_a_reload_during_an_answer_goes_on_where_it_was(serve: Serve, model: ModelServer, page: Page):
    model.answer, [goes_on] = words("Hel", "lo 👋")
    enter(page, serve(openai_base_url=model.url))
    say(page, "Hi")
    expect(page.get_by_text("Hel", exact=True)).to_be_visible()
    page.reload()
    expect(page.get_by_text("Hel", exact=True)).to_be_visible()
    expect(button(page, "Stop")).to_be_visible()
    goes_on.set()
    expect_log(page, "Hi", "Hello 👋")
    assert (len(model.asked), model.aborted) == (1, 0)


def test_an_answer_that_nobody_came_back_to_is_said_and_asked_again(serve: Serve, model: ModelServer, page: Page):
    model.answer = hangs
    url = serve(openai_base_url=model.url, chat_leave_seconds=0)
    enter(page, url)
    say(page, "Hi")
    expect(page.get_by_text("Hel", exact=True)).to_be_visible()
    address = page.url
    page.goto("about:blank")
    wait_until(lambda: model.aborted == 1)
    page.goto(address)
    expect_log(page, "Hi", "Hel", "Nobody was here to read on, so the answer ends here.")
    model.answer = two_words
    button(page, "Ask again").click()
    expect_log(page, "Hi", "Hello")
    assert states(url, page) == ["done", "done"]


def test_a_second_tab_follows_and_stops_the_answer_for_both(serve: Serve, model: ModelServer, page: Page):
    model.answer, [goes_on, never] = words("Hel", "lo", "!")
    url = serve(openai_base_url=model.url)
    enter(page, url)
    say(page, "Hi")
    expect(page.get_by_text("Hel", exact=True)).to_be_visible()
    second = page.context.new_page()
    second.goto(f"{url}/#token={TOKEN}&conversation={page.url.partition('=')[2]}")
    expect(second.get_by_text("Hel", exact=True)).to_be_visible()
    goes_on.set()
    for tab in (page, second):
        expect(tab.get_by_text("Hello", exact=True)).to_be_visible()
    button(second, "Stop").click()
    expect_log(second, "Hi", "Hello", "Stopped.")
    expect_log(page, "Hi", "Hello", "The answer was stopped.")
    wait_until(lambda: model.aborted == 1)
    never.set()
    assert len(model.asked) == 1


def test_a_lost_network_is_said_and_the_answer_goes_on_where_it_was(serve: Serve, model: ModelServer, page: Page):
    model.answer, [cut, back] = words("one ", "two ", "three")
    with Network(serve(openai_base_url=model.url)).running() as network:
        enter(page, network.url)
        say(page, "Hi")
        expect(page.get_by_text("one", exact=True)).to_be_visible()
        network.cut()
        expect(page.locator("#draft").get_by_text(LOST)).to_be_visible()
        expect(page.get_by_role("status").first).to_have_text(LOST)
        cut.set()
        network.restore()
        page.evaluate("dispatchEvent(new Event('online'))")  # what a browser says, so that nobody waits
        expect(page.get_by_text("one two", exact=True)).to_be_visible()
        expect(page.locator("#draft").get_by_text(LOST)).to_be_hidden()
        network.cut()
        network.restore()
        back.set()
        expect_log(page, "Hi", "one two three")
    assert (len(model.asked), model.aborted) == (1, 0)


def test_a_lost_network_can_be_given_up(serve: Serve, model: ModelServer, page: Page):
    model.answer = hangs
    with Network(serve(openai_base_url=model.url)).running() as network:
        enter(page, network.url)
        say(page, "Hi")
        expect(page.get_by_text("Hel", exact=True)).to_be_visible()
        network.cut()
        expect(page.locator("#draft").get_by_text(LOST)).to_be_visible()
        button(page, "Stop").click()
        expect_log(page, "Hi", "Hel", "Stopped.")
        network.restore()
        button(page, "Try again").click()  # the server could not be told, and there it is still written
        expect(page.locator("#draft").get_by_text("Hel", exact=True)).to_be_visible()
        button(page, "Stop").click()
        expect_log(page, "Hi", "Hel", "Stopped.")
        wait_until(lambda: model.aborted == 1)
    assert len(model.asked) == 1


# The list of conversations


def test_conversations_are_listed_by_their_first_words_opened_and_deleted(serve: Serve, model: ModelServer, page: Page):
    url = serve(openai_base_url=model.url)
    enter(page, url)
    for text in ("first words", "<b>second</b>"):
        say(page, text)
        expect_log(page, text, "Hello")
        button(page, "New chat").click()
    button(page, "Chats").click()
    chats = page.get_by_role("dialog", name="Chats")
    expect(chats.get_by_role("listitem")).to_have_text([re.compile("<b>second</b>"), re.compile("first words")])
    chats.get_by_role("button", name="first words").first.click()
    expect_log(page, "first words", "Hello")
    button(page, "Chats").click()
    chats.get_by_role("button", name="Delete: first words").click()
    expect(chats.get_by_role("listitem")).to_have_text([re.compile("<b>second</b>")])
    expect(chats.get_by_role("button", name="Delete: <b>second</b>")).to_be_focused()
    page.keyboard.press("Enter")
    expect(chats.get_by_text("Nothing was said yet.")).to_be_visible()
    chats.get_by_role("button", name="Close").click()
    expect_log(page)
    assert "conversation=" not in page.url


def test_a_visitor_signs_in_with_a_jwt_and_sees_what_is_its_own(serve: Serve, model: ModelServer, page: Page):
    """As docs/access.md says: with the token in the link."""
    url = serve(openai_base_url=model.url, **SIGNED)
    for name in ("bob", "alice"):
        asked = {"message": f"the words of {name}"}
        httpx.post(f"{url}/api/chat", json=asked, headers=visitor(name), trust_env=False).raise_for_status()
    chats = page.get_by_role("dialog", name="Chats")
    page.goto(f"{url}/#token={visitor('alice')['Authorization'].removeprefix('Bearer ')}")
    say(page, "Hi")
    expect_log(page, "Hi", "Hello")
    button(page, "Chats").click()
    expect(chats.get_by_role("listitem")).to_have_text([re.compile("Hi"), re.compile("the words of alice")])
    chats.get_by_role("button", name="the words of alice").first.click()
    expect_log(page, "the words of alice", "Hello")
    assert "eyJ" not in page.url  # neither the history nor a link tells it


def test_a_long_list_comes_page_by_page(serve: Serve, model: ModelServer, page: Page, bearer: dict[str, str]):
    url = serve(openai_base_url=model.url)
    for number in range(21):
        asked = {"message": f"question {number}."}
        httpx.post(f"{url}/api/chat", json=asked, headers=bearer, trust_env=False).raise_for_status()
    enter(page, url)
    button(page, "Chats").click()
    items = page.get_by_role("dialog", name="Chats").get_by_role("listitem")
    expect(items).to_have_count(20)
    button(page, "Older ones").click()
    expect(items).to_have_count(21)
    expect(items.last).to_contain_text("question 0.")
    expect(button(page, "Older ones")).to_be_hidden()


def test_a_conversation_that_is_gone_is_a_new_one(serve: Serve, model: ModelServer, page: Page):
    enter(page, serve(openai_base_url=model.url), "gone")
    expect_log(page, "That conversation is not there any more. This is a new one.")
    say(page, "Hi")
    expect(page.get_by_role("log")).to_contain_text("Hello")
    assert "conversation=gone" not in page.url


def test_another_conversation_is_begun_and_back_returns_to_the_first(serve: Serve, model: ModelServer, page: Page):
    enter(page, serve(openai_base_url=model.url))
    say(page, "one")
    expect_log(page, "one", "Hello")
    button(page, "New chat").click()
    expect_log(page)
    expect(box(page)).to_be_focused()
    say(page, "two")
    expect_log(page, "two", "Hello")
    assert [message["content"] for message in model.asked[1]["messages"]] == ["two"]
    page.go_back()
    expect_log(page, "one", "Hello")
    page.go_forward()
    expect_log(page, "two", "Hello")


def test_a_new_conversation_leaves_the_answer_of_the_old_one(serve: Serve, model: ModelServer, page: Page):
    model.answer = hangs
    enter(page, serve(openai_base_url=model.url, chat_leave_seconds=0))
    say(page, "one")
    expect(page.get_by_text("Hel", exact=True)).to_be_visible()
    button(page, "New chat").click()
    wait_until(lambda: model.aborted == 1)
    model.answer = two_words
    say(page, "two")
    expect_log(page, "two", "Hello")


# The token


def test_a_wrong_token_is_said_and_the_right_one_sends_the_message(serve: Serve, model: ModelServer, page: Page):
    page.goto(serve(openai_base_url=model.url))
    field = page.get_by_role("dialog", name="Token").get_by_label("Token")
    expect(field).to_be_focused()
    field.fill("wröng")
    field.press("Enter")
    say(page, "Hi")
    expect(page.get_by_role("alert")).to_have_text("The server does not accept this token.")
    expect(field).to_be_focused()
    expect(field).to_have_value("")
    field.fill(f" {TOKEN} ")
    field.press("Enter")
    expect_log(page, "Hi", "Hello")
    expect(box(page)).to_be_focused()
    assert len(model.asked) == 1


def test_the_link_of_make_dev_carries_the_token_and_does_not_keep_it(serve: Serve, model: ModelServer, page: Page):
    token = "tö+k%n=&#?"
    link = re.search(r"http\S+(/#token=\S+)", banner(Config(webchat_token=token), load_routes(ROUTES)))
    assert link
    url = serve(openai_base_url=model.url, webchat_token=token)
    page.goto(url + link[1])
    expect(box(page)).to_be_focused()
    assert page.url == f"{url}/"
    say(page, "Hi")
    expect_log(page, "Hi", "Hello")
    page.reload()
    expect_log(page, "Hi", "Hello")
    other = page.context.new_page()
    other.goto(url)
    expect(other.get_by_role("dialog", name="Token")).to_be_visible()  # it was kept for that tab only


def test_make_dev_prints_no_link_where_there_is_no_page(tmp_path: Path):
    (tmp_path / "routes").mkdir()
    assert "#token" not in banner(Config(webchat_token="t", routes_dir=tmp_path / "routes"), load_routes(ROUTES))


# What goes wrong


async def reports_an_error(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.delta("Hel")
    await exchange.event({"error": {"message": "secret provider text"}})


def test_an_error_during_the_answer_is_said_and_can_be_tried_again(serve: Serve, model: ModelServer, page: Page):
    model.answer = reports_an_error
    url = serve(openai_base_url=model.url)
    enter(page, url)
    say(page, "Hi")
    expect_log(page, "Hi", "Hel", "The model reported an error.")
    page.reload()
    expect_log(page, "Hi", "Hel", "The answer broke off here.")
    button(page, "Ask again").click()
    expect_log(page, "Hi", "Hel", "The model reported an error.")
    model.answer = two_words
    button(page, "Try again").click()
    expect_log(page, "Hi", "Hello")
    assert states(url, page) == ["done", "done"]


async def is_busy(exchange: Exchange) -> None:
    await exchange.head(429, retry_after="17")


async def refuses(exchange: Exchange) -> None:
    await exchange.head(500)


async def is_silent(exchange: Exchange) -> None:
    await exchange.hang()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (refuses, "The model refused the request."),
        (is_busy, "The model is busy. Try again later. Wait 17 seconds."),
        (is_silent, "The model did not answer in time."),
    ],
    ids=["502", "503", "504"],
)
def test_a_model_that_fails_at_once_is_said(serve: Serve, model: ModelServer, page: Page, answer: Answer, words: str):
    model.answer = answer
    enter(page, serve(openai_base_url=model.url, silence=0.2))
    say(page, "Hi")
    expect_log(page, "Hi", words)
    model.answer = two_words
    button(page, "Try again").click()
    expect_log(page, "Hi", "Hello")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("word " * 200, "The message is too long for this server."),
        ("a\0b", "The server does not take this: message has a NUL character."),
    ],
    ids=["413", "400"],
)
def test_a_message_that_is_refused_can_be_edited(serve: Serve, model: ModelServer, page: Page, text: str, words: str):
    enter(page, serve(openai_base_url=model.url, max_body_bytes=500))
    say(page, text)
    expect(page.get_by_role("log")).to_contain_text(words)
    button(page, "Edit the message").click()
    expect_log(page)
    expect(box(page)).to_have_value(text)
    assert model.asked == []


def test_a_conversation_of_somebody_elses_is_neither_shown_nor_continued(
    serve: Serve, model: ModelServer, page: Page, bearer: dict[str, str]
):
    url = serve(openai_base_url=model.url)
    theirs = {"message": "Hi", "conversationId": "theirs", "channelId": "7"}
    httpx.post(f"{url}/api/chat", json=theirs, headers=bearer, trust_env=False)
    enter(page, url, "theirs")
    expect_log(page, "That conversation is not there any more. This is a new one.")
    say(page, "two")
    expect_log(page, "That conversation is not there any more. This is a new one.", "two", "Hello")
    assert [message["content"] for message in model.asked[-1]["messages"]] == ["two"]


def test_a_server_that_dies_is_said_and_the_talk_goes_on_when_it_is_back(
    model: ModelServer, page: Page, tmp_path: Path
):
    model.answer = hangs
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = {"PORT": str(port), "WEBCHAT_TOKEN": TOKEN, "OPENAI_BASE_URL": model.url}
    settings["DATABASE_URL"] = f"sqlite:///{tmp_path}/app.db"

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/api/health", trust_env=False).is_success
        except httpx.TransportError:
            return False

    with running(HERE, sys.executable, "-m", "app", "start", **settings) as server:
        wait_until(answers, 60)
        enter(page, url)
        say(page, "Hi")
        expect(page.get_by_text("Hel", exact=True)).to_be_visible()
        server.process.kill()
        expect(page.locator("#draft").get_by_text(LOST)).to_be_visible()
    model.answer = two_words
    with running(HERE, sys.executable, "-m", "app", "start", **settings):
        wait_until(answers, 60)
        page.evaluate("dispatchEvent(new Event('online'))")
        expect(button(page, "Try again")).to_be_visible(timeout=30_000)  # a dead writer may be a slow one
        expect_log(page, "Hi", "Hel", "The answer broke off.")
        button(page, "Try again").click()
        expect_log(page, "Hi", "Hello")
        say(page, "two")
        expect_log(page, "Hi", "Hello", "two", "Hello")


# What is shown

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)><b>bold</b>\n&amp;</p>"


def test_markup_is_shown_as_text_and_nothing_of_it_runs(serve: Serve, model: ModelServer, page: Page):
    async def markup(exchange: Exchange) -> None:
        await exchange.head()
        for piece in (MARKUP[:5], MARKUP[5:30], MARKUP[30:]):
            await exchange.delta(piece)
        await exchange.done()

    model.answer = markup
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    url = serve(openai_base_url=model.url)
    enter(page, url)
    say(page, MARKUP)
    for _ in range(2):
        expect_log(page, MARKUP, MARKUP)
        assert page.locator("main").evaluate("main => main.querySelectorAll('script, img, b').length") == 0
        page.reload()
    assert f"{url}/x" not in asked


def test_an_answer_is_shown_as_markdown_and_its_code_can_be_copied(serve: Serve, model: ModelServer, page: Page):
    model.answer, [goes_on] = words("# Tit", "le\n\n- **one**\n- two\n\n```py\nprint(1)\n```\n")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    enter(page, serve(openai_base_url=model.url))
    say(page, "**Hi**")
    expect(page.get_by_role("heading", name="Tit", exact=True)).to_be_visible()
    goes_on.set()
    log = page.get_by_role("log")
    for _ in range(2):
        expect(log.get_by_role("heading", name="Title", level=2)).to_be_visible()
        expect(log.get_by_role("listitem")).to_have_text(["one", "two"])
        expect(log.locator("strong")).to_have_text(["one"])  # a person's own words stay as they are
        page.reload()
    log.get_by_role("button", name="Copy").click()
    expect(log.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "print(1)"


def test_an_answer_that_its_model_cut_short_is_told(serve: Serve, model: ModelServer, page: Page):
    async def cut_short(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.delta("Hel")
        await exchange.delta("", "length")
        await exchange.done()

    model.answer = cut_short
    enter(page, serve(openai_base_url=model.url))
    say(page, "Hi")
    for _ in range(2):
        expect_log(page, "Hi", "Hel", "The answer reached its greatest length and was cut off here.")
        page.reload()


def test_ten_thousand_pieces_are_shown(serve: Serve, model: ModelServer, page: Page):
    async def many(exchange: Exchange) -> None:
        await exchange.head()
        for number in range(10_000):
            await exchange.delta(f"{number}\n\n" if number % 10 == 0 else f"{number} ")
        await exchange.delta("end", "stop")
        await exchange.done()

    model.answer = many
    enter(page, serve(openai_base_url=model.url))
    say(page, "Hi")
    expect(page.get_by_role("log")).to_contain_text("9999 end", timeout=60_000)
    assert page.locator(".assistant p").count() == 1001


@pytest.mark.parametrize(
    ("attack", "directive"),
    [
        ("document.body.insertAdjacentHTML('beforeend', '<img src=x>')", "require-trusted-types-for"),
        ("document.createElement('script').text = 'alert(1)'", "require-trusted-types-for"),
        ("fetch('http://127.0.0.1:9/')", "connect-src"),
        ("new Promise((_, no) => Object.assign(new Image(), { onerror: no, src: 'http://127.0.0.1:9/' }))", "img-src"),
    ],
)
def test_the_policy_of_the_page_refuses_what_would_slip_through(
    serve: Serve, browser: Browser, attack: str, directive: str
):
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(serve())
        page.evaluate("addEventListener('securitypolicyviolation', e => document.title = e.effectiveDirective)")
        with pytest.raises(Error):
            page.evaluate(attack)
        assert page.title() == directive


def test_an_answer_that_comes_byte_by_byte_is_whole(serve_tree: Serve, page: Page):
    events = ': a comment\n\ndata: {"text": "Grüße 👋 "}\n\n: ping\n\n'
    events += 'data: {"text": "\\ud83d"}\n\ndata: {"text": "\\ude00"}\n\ndata: [DONE]\n\n'
    route = f"""
import anyio
from starlette.responses import StreamingResponse

async def POST():
    async def body():
        for byte in {events.encode()!r}:
            yield bytes([byte])
            await anyio.sleep(0.001)
    return StreamingResponse(body())
"""
    public = {f"../public/{file.name}": file.read_text() for file in (HERE / "public").iterdir()}
    enter(page, serve_tree({"api/chat/route.py": route} | public))
    say(page, "Hi")
    expect_log(page, "Hi", "Grüße 👋 😀")


def test_the_page_follows_an_answer_only_while_the_reader_is_at_its_end(serve: Serve, model: ModelServer, page: Page):
    more = [threading.Event(), threading.Event()]

    async def long(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.delta("line\n" * 100 + "first end")
        for i, event in enumerate(more):
            await asyncio.to_thread(event.wait, 10)
            await exchange.delta("\nline" * 100 + f"\nend {i}")
        await exchange.done()

    model.answer = long
    enter(page, serve(openai_base_url=model.url))
    say(page, "Hi")

    def to_end() -> float:
        return page.evaluate("document.documentElement.scrollHeight - innerHeight - scrollY")

    expect(page.get_by_text("first end")).to_be_visible()
    wait_until(lambda: to_end() < 4)
    more[0].set()
    expect(page.get_by_text("end 0")).to_be_visible()
    wait_until(lambda: to_end() < 4)
    page.mouse.wheel(0, -300)
    wait_until(lambda: to_end() > 200)
    before = page.evaluate("scrollY")
    more[1].set()
    expect_log(page, "Hi", re.compile("end 1$"))
    assert page.evaluate("scrollY") == before


def test_a_narrow_screen_is_wide_enough(serve: Serve, model: ModelServer, page: Page):
    async def wide(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.delta("https://example.com/" + "very-long-" * 30)
        await exchange.event({"error": {"code": 1}})

    def is_wide_enough() -> bool:
        return page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    model.answer = wide
    page.set_viewport_size({"width": 320, "height": 568})
    url = serve(openai_base_url=model.url)
    page.goto(url)
    expect(page.get_by_role("dialog")).to_be_visible()
    assert is_wide_enough()
    page.keyboard.press("Escape")
    enter(page, url)
    say(page, "W" * 300)
    expect(button(page, "Try again")).to_be_visible()
    assert is_wide_enough()
    for name in ("Try again", "Send", "Chats", "New chat"):
        expect(button(page, name)).to_be_in_viewport(ratio=1)
        assert button(page, name).evaluate("button => button.scrollHeight <= button.clientHeight"), name


def test_the_keyboard_alone_can_do_everything(serve: Serve, model: ModelServer, page: Page):
    typed = threading.Event()

    async def goes_on(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.delta("Hel")
        await asyncio.to_thread(typed.wait, 10)
        await exchange.delta("lo")
        await exchange.hang()

    model.answer = goes_on
    url = serve(openai_base_url=model.url, model_fast="tiny")
    page.goto(url)
    keys = page.keyboard
    keys.type(TOKEN)
    keys.press("Enter")
    expect(box(page)).to_be_focused()
    keys.type("one")
    keys.press("Shift+Enter")
    keys.type("two")
    keys.press("Enter")
    expect(page.get_by_text("Hel", exact=True)).to_be_visible()
    assert model.asked[0]["messages"][0]["content"] == "one\ntwo"
    keys.type("not yet")
    keys.press("Enter")  # while an answer is written, it neither sends nor stops
    expect(box(page)).to_have_value("not yet")
    typed.set()
    expect(page.get_by_text("Hello", exact=True)).to_be_visible()
    keys.press("Escape")
    expect_log(page, "one\ntwo", "Hello", "Stopped.")
    wait_until(lambda: states(url, page) == ["done", "stopped"])
    model.answer = two_words
    for name in ("Try again", "New chat", "Chats", "Model"):
        keys.press("Shift+Tab")
        reached = page.get_by_role("combobox" if name == "Model" else "button", name=name)
        expect(reached).to_be_focused()
        assert reached.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
    keys.press("ArrowDown")
    for _ in ("Chats", "New chat", "Try again"):
        keys.press("Tab")
    keys.press("Enter")
    expect_log(page, "one\ntwo", "Hello")
    expect(box(page)).to_be_focused()
    keys.press("Enter")
    expect_log(page, "one\ntwo", "Hello", "not yet", "Hello")
    assert model.asked[-1]["model"] == "tiny"
    keys.press("Shift+Tab")
    keys.press("Enter")
    expect_log(page)
    expect(box(page)).to_be_focused()


def test_enter_that_chooses_a_word_does_not_send(serve: Serve, model: ModelServer, page: Page):
    enter(page, serve(openai_base_url=model.url))
    expect(box(page)).to_be_focused()
    typing: Any = page.context.new_cdp_session(page)  # its dicts are untyped
    typing.send("Input.imeSetComposition", {"text": "にほ", "selectionStart": 2, "selectionEnd": 2})
    typing.send("Input.dispatchKeyEvent", {"type": "rawKeyDown", "key": "Enter", "windowsVirtualKeyCode": 13})
    typing.send("Input.insertText", {"text": "日本"})
    expect(box(page)).to_have_value("日本")
    expect_log(page)
    page.keyboard.press("Enter")
    expect_log(page, "日本", "Hello")
    assert len(model.asked) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_text_can_be_read_in_light_and_in_dark(
    serve: Serve, model: ModelServer, page: Page, scheme: Literal["light", "dark"]
):
    model.answer = reports_an_error
    page.emulate_media(color_scheme=scheme)
    enter(page, serve(openai_base_url=model.url))
    say(page, "Hi")
    expect(button(page, "Try again")).to_be_visible()
    paper = page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
    assert paper == ("rgb(26, 27, 28)" if scheme == "dark" else "rgb(251, 250, 248)")
    assert page.evaluate(CONTRASTS) == []


# every text whose contrast with what is behind it is under 4.5 (WCAG 2.2, 1.4.3)
CONTRASTS = """() => {
  const light = (color) => {
    const [r, g, b] = color.match(/[\\d.]+/g).map((part) => part / 255)
      .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const behind = (element) => {
    const { backgroundColor } = getComputedStyle(element)
    return backgroundColor === 'rgba(0, 0, 0, 0)' ? behind(element.parentElement) : backgroundColor
  }
  return [...document.querySelectorAll('h1, label, button, select, p, textarea')].map((element) => {
    const [one, two] = [light(getComputedStyle(element).color), light(behind(element))]
    return [element.outerHTML, (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05)]
  }).filter(([, contrast]) => contrast < 4.5)
}"""
