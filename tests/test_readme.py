"""The commands that the pages show are commands that there are."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import dmcp_deploy
from dmcp_deploy.cli.main import main

ROOT = Path(dmcp_deploy.__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands() -> Iterator[tuple[str, str]]:
    """Yields page and command for every line that starts with dmcp-deploy, and in backticks."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found = re.findall(r"^ {4}(dmcp-deploy .*)$", text, re.M)
        found += re.findall(r"`(dmcp-deploy [^`]+)`", text)
        yield from ((page.name, line) for line in found)


SHOWN = list(dict.fromkeys(commands()))


def test_there_are_commands_on_the_pages() -> None:
    assert len({line for _, line in SHOWN}) > 15


@pytest.mark.parametrize(("page", "line"), SHOWN)
def test_a_command_on_a_page_is_understood(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    if words[0].startswith("-") or words[0].isupper() or "..." in words:
        return
    command = main.get_command(click.Context(main), words[0])
    assert command is not None, line
    if len(words) > 1:
        command.make_context(words[0], list(words[1:]), parent=click.Context(main))


@pytest.mark.parametrize(
    ("page", "target"),
    [
        (page.name, target)
        for page in PAGES
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    ],
)
def test_a_link_between_pages_leads_somewhere(page: str, target: str) -> None:
    folder = next(path.parent for path in PAGES if path.name == page)
    assert (folder / target).exists()


@pytest.mark.parametrize(
    ("page", "target"),
    [
        (page.name, target)
        for page in PAGES
        for target in re.findall(
            r"(?:^ {4}|`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.M
        )
    ],
)
def test_a_make_target_on_a_page_exists(page: str, target: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", makefile, re.M), f"{page}: make {target}"


def test_the_map_of_rooms_is_right() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("|")]
    named = {name for row in rows for name in re.findall(r"`([a-z_]+(?:/[a-z_]*)*(?:\.py)?)`", row)}
    paths = {name for name in named if "/" in name or name.endswith(".py")}
    package = ROOT / "dmcp_deploy"
    places = (package, package / "run", package / "bench", package / "machine", ROOT)
    assert {path for path in paths if not any((place / path).exists() for place in places)} == set()
    rooms = {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").exists()}
    assert rooms <= paths


def test_the_readme_takes_three_minutes() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_index_leads_to_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {
        (index.parent / target).resolve()
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", index.read_text(encoding="utf-8"))
    }
    pages = {page.resolve() for page in PAGES if page != index}
    assert pages - linked == set()


def test_the_readme_names_every_command() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`([a-z]+)`", row)} == set(main.commands)
