"""YAML of two levels, as far as MMRazor's subnet files go: names -> words -> whole numbers."""

from __future__ import annotations

import re

from dmcp_deploy.errors import DmcpError
from dmcp_deploy.published.widths import shortened

_NAME = re.compile(r"(?P<name>[\w.]+):", re.ASCII)
_NUMBER = re.compile(r" +(?P<name>\w+): *(?P<number>\d{1,9})", re.ASCII)


def read_mapping(text: str) -> dict[str, dict[str, int]]:
    """Returns the mapping in a text of lines such as "name:", each followed by "  word: 12".

    Raises:
        DmcpError: A line is written otherwise.
    """
    content: dict[str, dict[str, int]] = {}
    current: dict[str, int] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].rstrip()
        if name := _NAME.fullmatch(line):
            current = content.setdefault(name["name"], {})
        elif current is not None and (word := _NUMBER.fullmatch(line)):
            current[word["name"]] = int(word["number"])
        elif line and line != "---":
            raise DmcpError(
                f"line {number} is {shortened(line)}, and subnet files have a layer's name and a"
                " colon there, or below it a word, a colon and a number."
            )
    return content
