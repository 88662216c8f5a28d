"""Splits a file of commands into words as a shell does.

One command per line; a backslash at a line's end joins the next line to it, quotes hold whatever
they hold, # starts a comment. What a shell would expand or run otherwise ($HOME, *, &&) is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from common.errors import UsageError

# A command without anything special, but a backslash that joins two lines. Unrolled, so that what
# is none is known in one pass.
_PLAIN = re.compile(
    r"""(?P<before>\s*(?:\\\n\s*)*)
        (?P<words>[^'"\\\#~$`;&|<>()*?[{\n]*(?:\\\n[^'"\\\#~$`;&|<>()*?[{\n]*)*)\n""",
    re.VERBOSE,
)
_PIECE = re.compile(
    r"""(?P<space>(?:[^\S\n]|\\\n)+)
      | (?P<end>\n)
      | (?P<comment>\#[^\n]*)
      | (?P<word>(?!~)(?:[^\s'"\\$`;&|<>()*?[{]|'[^']*'|"(?:[^"\\$`]|\\.)*"|\\.)+)
      | (?P<expanded>[~$`;&|<>()*?[{]|"(?:[^"\\$`]|\\.)*[$`])
      | (?P<open>.)""",
    re.VERBOSE | re.DOTALL,
)
_QUOTING = re.compile(
    r"""'(?P<single>[^']*)'|"(?P<double>(?:[^"\\]|\\.)*)"|\\(?P<escaped>.)""", re.DOTALL
)
# Between double quotes a backslash stands for itself before anything else.
_ESCAPE_IN_DOUBLE = re.compile(r"""\\(?:\n|([$`"\\]))""")


def split_commands(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The commands of a file as lists of words, each with the number of its first line.

    Raises UsageError, with file and line, for what a shell would expand or run otherwise, for a
    quote that is not closed, and for a file that cannot be read.
    """
    try:
        # read_text would change carriage returns. The last line ends even behind a backslash.
        text = path.read_bytes().decode() + "\n\n"
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: no text: {error.reason} at byte {error.start}") from None
    line, end = 1, 0
    while end < len(text):
        # The commands of a sweep are thousands and nearly all plain.
        if plain := _PLAIN.match(text, end):
            line += plain["before"].count("\n")
            if words := plain["words"].replace("\\\n", "").split():
                yield line, words
            line += plain["words"].count("\n") + 1
            end = plain.end()
            continue
        start, words = line, []
        for piece in _PIECE.finditer(text, end):
            kind = piece.lastgroup or ""
            written = piece[kind]
            if kind == "open":
                raise UsageError(f"{path}: line {line}: a quote that is not closed")
            if kind == "expanded":
                raise UsageError(
                    f"{path}: line {line}: a shell would not take {written[-1]} as it stands, and "
                    "a sweep expands nothing: write the value, or quote it in ''"
                )
            if kind == "word":
                start = start if words else line
                words.append(_unquoted(written))
            line += written.count("\n")
            end = piece.end()
            if kind == "end":
                break
        if words:
            yield start, words


def _unquoted(word: str) -> str:
    """What a shell makes of a word whose quotes are closed."""

    def bare(part: re.Match[str]) -> str:
        if part["double"] is not None:
            return _ESCAPE_IN_DOUBLE.sub(r"\1", part["double"])
        if part["single"] is not None:
            return part["single"]
        return part["escaped"].strip("\n")  # nothing, where it joins two lines

    return _QUOTING.sub(bare, word)
