"""Every `chrysalis` command that a page names is there, with the options it is named with."""

import re
import shlex

import pytest
import typer

from chrysalis.cli import app
from tests.test_docs import IDS, PAGES

BLOCK = re.compile(r"^```.*?\n(.*?)^```", re.M | re.S)
SPAN = re.compile(r"`(chrysalis (?!conformance case)[^`\n]+)`")  # that is a text of the vectors


def commands(text: str) -> list[str]:
    """Command lines in code spans, and in blocks those at the beginning of a line."""
    lines = [line for block in BLOCK.findall(text) for line in block.splitlines() if line.startswith("chrysalis ")]
    return SPAN.findall(BLOCK.sub("", text)) + lines


def unknown(line: str) -> str:
    """What of a command line there is not; empty when all of it is."""
    try:
        words = shlex.split(line, comments=True)[1:]
    except ValueError:
        words = line.split()[1:]
    command = typer.main.get_command(app)
    while words and hasattr(command, "commands"):
        if not re.fullmatch(r"[a-z][a-z|-]*", words[0]):
            break  # the group as such, with options or placeholders
        several = words[0].split("|")
        if missing := [name for name in several if name not in command.commands]:
            return f"{line}: there is no command {missing[0]}"
        command, words = command.commands[several[0]], words[1:]
    options = {option for one in command.params for option in (*one.opts, *one.secondary_opts)} | {"--help"}
    passes_on = command.context_settings.get("ignore_unknown_options", False)
    for word in words:
        if word == "--":
            break
        name = word.strip("[]().,").partition("=")[0]
        if re.fullmatch(r"--[a-z-]+", name) and name not in options and not passes_on:
            return f"{line}: there is no option {name}"
    return ""


@pytest.mark.parametrize("page", IDS)
def test_every_command_that_a_page_names_exists(page) -> None:
    assert [found for line in commands(page.read_text()) if (found := unknown(line))] == []


def test_the_pages_name_commands_and_one_that_is_not_there_is_found() -> None:
    assert sum(len(commands(page.read_text())) for page in PAGES) > 100
    assert unknown("chrysalis cluster rotate-tokens") != unknown("chrysalis cluster rotate-token") == ""
    assert (
        unknown("chrysalis hosts drain HOST --because disk") != unknown("chrysalis hosts drain HOST --reason x") == ""
    )
