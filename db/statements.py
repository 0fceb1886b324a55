"""A file of SQL as its statements, for two engines that take one at a time.

A ``;`` ends a statement unless it stands in a text, a quoted name, a comment, a dollar-quoted text (PostgreSQL), or
the body of a trigger (SQLite: BEGIN ... END) or of a function (PostgreSQL: BEGIN ATOMIC ... END).
https://www.postgresql.org/docs/current/sql-syntax-lexical.html, https://www.sqlite.org/lang.html
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from db.contract import Engine

COMMON = r"""
    (?P<blank>   \s+ | --[^\n]* )
  | (?P<comment> /\* )
  | (?P<text>    '(?:[^']|'')*'  | "(?:[^"]|"")*" )
  | (?P<word>    [^\W\d][\w$]* )
  | (?P<end>     ; )
"""
TOKEN: dict[Engine, re.Pattern[str]] = {
    "sqlite": re.compile(rf"(?P<name>`(?:[^`]|``)*`|\[[^\]]*\])|{COMMON}|(?P<other>.)", re.X | re.S),
    "postgresql": re.compile(
        r"(?P<escaped>[eE]'(?:[^'\\]|''|\\.)*')|(?P<dollar>\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$)|"
        rf"{COMMON}|(?P<other>.)",
        re.X | re.S,
    ),
}
BODY = re.compile(r"CREATE (OR REPLACE )?(TEMP |TEMPORARY |CONSTRAINT )?(TRIGGER|FUNCTION|PROCEDURE)\b")


class Located(NamedTuple):
    """A statement, and the line of its file that it begins in: 1, 2, 3 ..."""

    sql: str
    line: int


def statements(text: str, engine: Engine) -> list[Located]:
    """Split a text into its statements. What holds nothing but comments is none."""
    found: list[Located] = []
    start, words, depth, begun = 0, "", 0, False
    for kind, token, at in tokens(text, engine):
        if kind in ("blank", "comment"):
            start = start if begun else at + len(token)
            continue
        begun = begun or kind != "end"
        if kind == "word":
            word = token.upper()
            dotted = text[at - 1 : at] == "."  # NEW.end is a column
            if BODY.match(words) and not dotted:
                depth = max(0, depth + (word in ("BEGIN", "CASE")) - (word == "END"))
            words += f"{word} " if len(words) < 60 else ""
        elif kind == "end" and not depth:
            if begun:
                found.append(Located(text[start:at].strip(), text.count("\n", 0, start) + 1))
            start, words, depth, begun = at + 1, "", 0, False
    if begun:
        found.append(Located(text[start:].strip(), text.count("\n", 0, start) + 1))
    return found


def tokens(text: str, engine: Engine) -> Iterator[tuple[str, str, int]]:
    """Yield each token's kind, text and place."""
    at = 0
    while at < len(text):
        found = TOKEN[engine].match(text, at)
        assert found is not None
        kind, token = found.lastgroup or "", found[0]
        if kind == "comment":
            token = text[at : end_of_comment(text, at, nested=engine == "postgresql")]
        yield kind, token, at
        at += len(token)


def end_of_comment(text: str, start: int, *, nested: bool) -> int:
    """Return where a comment ends; in PostgreSQL one may stand in another."""
    depth = 0
    for mark in re.finditer(r"/\*|\*/", text[start:]):
        if mark[0] == "/*":
            depth += 1 if nested or not depth else 0
        else:
            depth -= 1
        if not depth:
            return start + mark.end()
    return len(text)
