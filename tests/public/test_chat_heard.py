"""The chat page as a screen reader meets it: Chromium's own accessibility tree, and where the focus is."""

from typing import Any, NamedTuple

import httpx
from playwright.sync_api import Page, expect

from tests.conftest import Serve
from tests.public.test_chat import box, button, enter, expect_log, hangs, say, words
from tests.servers import ModelServer, two_words, wait_until


class Node(NamedTuple):
    """What is told of an element: its role, its name, and what else is set."""

    role: str
    name: str
    properties: dict[str, Any]


def heard(page: Page) -> list[Node]:
    """The accessibility tree in the order in which it is read, without what is left out of it."""
    session: Any = page.context.new_cdp_session(page)  # its dicts are untyped
    nodes: list[Any] = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    by_id = {node["nodeId"]: node for node in nodes}
    found: list[Node] = []

    def walk(node: Any) -> None:
        if not node["ignored"]:
            properties = {each["name"]: each["value"].get("value") for each in node.get("properties", ())}
            found.append(Node(node["role"]["value"], node.get("name", {}).get("value", ""), properties))
        for id in node.get("childIds", ()):
            if id in by_id:
                walk(by_id[id])

    walk(nodes[0])
    return found


def named(page: Page, role: str) -> list[str]:
    return [node.name for node in heard(page) if node.role == role]


def live(page: Page) -> dict[str, dict[str, Any]]:
    """The live regions, by role: what changes in them is read out."""
    return {node.role: node.properties for node in heard(page) if node.role in ("log", "status")}


def test_what_is_there_has_a_role_and_a_name(serve: Serve, model: ModelServer, page: Page):
    enter(page, serve(openai_base_url=model.url))
    say(page, "Hi")
    expect_log(page, "Hi", "Hello")
    nodes = heard(page)
    roles = {node.role for node in nodes}
    assert {"RootWebArea", "banner", "main", "heading", "log", "status", "textbox", "combobox", "button"} <= roles
    assert [node.name for node in nodes if node.role in ("RootWebArea", "heading", "log")] == [
        "Chat",
        "Chat",
        "Conversation",
    ]
    assert named(page, "textbox") == ["Message"]
    assert named(page, "combobox") == ["Model"]
    assert named(page, "button") == ["Chats", "New chat", "Send"]
    said = [node.name.strip() for node in nodes if node.role == "StaticText"]
    assert [text for text in said if text in ("You:", "Hi", "Answer:", "Hello")] == ["You:", "Hi", "Answer:", "Hello"]


def test_an_answer_is_busy_while_it_grows_outside_of_what_is_read_out(serve: Serve, model: ModelServer, page: Page):
    model.answer, [goes_on] = words("Hel", "lo")
    enter(page, serve(openai_base_url=model.url))
    say(page, "Hi")
    for _ in range(2):
        expect(page.get_by_text("Hel", exact=True)).to_be_visible()
        expect(page.locator("#draft")).to_have_attribute("aria-busy", "true")
        expect(page.get_by_role("log")).to_have_attribute("aria-live", "polite")  # also for who came back
        assert live(page)["log"]["live"] == "polite"
        assert (
            page.get_by_text("Hel", exact=True).evaluate("said => said.closest('[aria-live], [role=status]')") is None
        )
        assert "The answer is being written." in named(page, "StaticText")
        page.reload()
    expect(page.get_by_text("Hel", exact=True)).to_be_visible()
    goes_on.set()
    expect_log(page, "Hi", "Hello")
    expect(page.locator("#draft")).to_have_attribute("aria-busy", "false")
    assert page.get_by_text("Hello", exact=True).evaluate("said => said.closest('[aria-live=polite]').id") == "log"
    assert not any(node.properties.get("busy") for node in heard(page))


def test_what_was_said_long_ago_is_not_read_out(serve: Serve, model: ModelServer, page: Page):
    enter(page, serve(openai_base_url=model.url))
    say(page, "Hi")
    expect_log(page, "Hi", "Hello")
    page.reload()
    expect_log(page, "Hi", "Hello")
    assert live(page)["log"].get("live", "off") == "off"


def test_who_goes_to_another_conversation_in_the_middle_of_an_answer_hears_nothing_old(
    serve: Serve, model: ModelServer, page: Page
):
    enter(page, serve(openai_base_url=model.url))
    say(page, "first")
    expect_log(page, "first", "Hello")
    button(page, "New chat").click()
    model.answer = hangs
    say(page, "second")
    expect(page.locator("#draft")).to_have_attribute("aria-busy", "true")
    expect(page.get_by_text("Hel", exact=True)).to_be_visible()
    page.go_back()
    expect_log(page, "first", "Hello")
    assert live(page)["log"].get("live", "off") == "off"
    assert not any(node.properties.get("busy") for node in heard(page))


def test_the_focus_stays_where_one_goes_on(serve: Serve, model: ModelServer, page: Page):
    model.answer = hangs
    enter(page, serve(openai_base_url=model.url))
    box(page).fill("Hi")
    button(page, "Send").press("Enter")
    expect(page.get_by_text("Hel", exact=True)).to_be_visible()
    expect(button(page, "Stop")).to_be_focused()
    page.keyboard.press("Enter")
    expect_log(page, "Hi", "Hel", "Stopped.")
    expect(button(page, "Send")).to_be_focused()
    model.answer = two_words
    button(page, "Try again").press("Enter")
    expect_log(page, "Hi", "Hello")
    expect(box(page)).to_be_focused()
    button(page, "New chat").press("Enter")
    expect(box(page)).to_be_focused()


def test_the_list_is_a_dialog_that_keeps_the_focus_and_gives_it_back(
    serve: Serve, model: ModelServer, page: Page, bearer: dict[str, str]
):
    url = serve(openai_base_url=model.url)
    for number in range(22):
        asked = {"message": f"question {number}."}
        httpx.post(f"{url}/api/chat", json=asked, headers=bearer, trust_env=False).raise_for_status()
    enter(page, url)
    button(page, "Chats").press("Enter")
    chats = page.get_by_role("dialog", name="Chats")
    items = chats.get_by_role("listitem")
    expect(items).to_have_count(20)
    [dialog] = [node for node in heard(page) if node.role == "dialog"]
    assert (dialog.name, dialog.properties["modal"]) == ("Chats", True)
    names = named(page, "button")
    assert all(names)
    assert len([name for name in names if name.startswith("Delete: question ")]) == 20
    assert names[-2:] == ["Older ones", "Close"]
    button(page, "Older ones").press("Enter")
    expect(items).to_have_count(22)
    expect(items.nth(20).get_by_role("button").first).to_be_focused()  # the first of those that came
    items.nth(20).get_by_role("button", name="Delete").press("Enter")
    expect(items).to_have_count(21)
    expect(items.nth(20).get_by_role("button", name="Delete")).to_be_focused()
    page.keyboard.press("Escape")
    expect(button(page, "Chats")).to_be_focused()
    page.keyboard.press("Enter")
    expect(items).to_have_count(20)
    items.first.get_by_role("button").first.press("Enter")
    expect_log(page, "question 21.", "Hello")
    expect(box(page)).to_be_focused()


def test_the_token_is_asked_for_in_a_dialog_and_a_wrong_one_is_said_at_once(serve: Serve, page: Page):
    page.goto(serve())
    expect(page.get_by_role("dialog", name="Token")).to_be_visible()
    assert named(page, "button") == ["Continue"]
    [field] = [node for node in heard(page) if node.role == "textbox"]
    assert (field.name, field.properties["focused"], field.properties["required"]) == ("Token", True, True)
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    say(page, "Hi")
    expect(page.get_by_role("alert")).to_have_text("The server does not accept this token.")
    assert "alert" in {node.role for node in heard(page)}


def test_code_can_be_copied_by_a_button_with_a_name(serve: Serve, model: ModelServer, page: Page):
    model.answer, _ = words("```py\nprint(1)\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n")
    enter(page, serve(openai_base_url=model.url))
    say(page, "Hi")
    expect(page.get_by_role("log").get_by_role("button", name="Copy")).to_be_visible()
    wait_until(lambda: {"table", "columnheader", "cell", "code"} <= {node.role for node in heard(page)})
    assert "" not in named(page, "button")
