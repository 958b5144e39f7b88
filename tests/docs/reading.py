"""The commands and Python blocks of the pages, as a shell and Python see them."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "datasets/README.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")),
)
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
OURS = r"hyperclip-[a-z-]+(?: [^`]*)?"
INLINE = re.compile(
    rf"(?<!`)`((?:\w+=\S+ )*(?:(?:python|bash|torchrun|sbatch|pip|docker) [^`]+|{OURS}))`(?!`)"
)
VARIABLES = ("RESUME", "OVERWRITE", "DRY_RUN", "PYTHONPATH")
PROGRAMS = ("python", "bash", "torchrun", "sbatch", "pip", "docker")
SHELL = """
set -euf
PATH=
record() {
    given=
    if [ "${2-}" = - ]; then given=$(</dev/stdin); fi
    printf '%s\\0' "$#" "$@" "$given" FOR_VARIABLES
}
find() { :; }
source() { :; }
"""
"""Programs are functions that say how they are called; what is not known is an error."""


@dataclass(frozen=True)
class Command:
    """A call of a program on a page.

    Attributes:
        given: its standard input, if that is its program.
        environment: the variables of ``VARIABLES`` that are set for it.
    """

    page: str
    words: tuple[str, ...]
    given: str = ""
    environment: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """The page and the words, by which rules know it."""
        variables = [f"{name}={value}" for name, value in self.environment]
        return f"{self.page}: {' '.join([*variables, *self.words])}"


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [code for name, code in FENCED.findall(text) if name == language]


def inline_commands(page: str) -> list[str]:
    """Whole commands between backticks, outside of fenced blocks."""
    text = FENCED.sub("", (ROOT / page).read_text(encoding="utf-8"))
    return [" ".join(found.split()) for found in INLINE.findall(text)]


def links(page: str) -> list[tuple[str, str]]:
    """(file, heading) of every link within the repository; "" for this page, and for no heading."""
    text = FENCED.sub("", (ROOT / page).read_text(encoding="utf-8"))
    return re.findall(r"\]\((?!\w+:)([^)#\s]*)#?([^)\s]*)\)", text)


def headings(page: Path) -> list[str]:
    """What links call the headings of a page, as GitHub makes it of their words."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]


def shell_code() -> str:
    """Definitions for :func:`calls_of`."""
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^PROGRAMS = \((.*?)\)", setup, re.M | re.S)
    names = [*PROGRAMS, *(f"hyperclip-{name}" for name in re.findall(r'"(.+?)"', listed))]
    variables = " ".join(f'"${{{name}-}}"' for name in VARIABLES)
    functions = "".join(f'{name}() {{ record {name} "$@"; }}\n' for name in names)
    return SHELL.replace("FOR_VARIABLES", variables) + functions


def calls_of(page: str, code: str) -> list[Command]:
    """The programs that a piece of shell code calls, in order; loops and variables are the shell's
    to expand.
    """
    shell = [shutil.which("bash"), "-c", shell_code() + code]
    done = subprocess.run(shell, capture_output=True, text=True, encoding="utf-8", env={})
    assert done.returncode == 0, f"{page}: {code}\n{done.stderr}"
    fields, calls = iter(done.stdout.split("\0")[:-1]), []
    for count in fields:
        words = tuple(next(fields) for _ in range(int(count)))
        given = next(fields)
        values = [(name, next(fields)) for name in VARIABLES]
        calls.append(Command(page, words, given, tuple(pair for pair in values if pair[1])))
    return calls


def commands_of(page: str) -> list[Command]:
    """Every command of a page, each once."""
    pieces = [*blocks(page, "bash"), *inline_commands(page)]
    return list(dict.fromkeys(call for piece in pieces for call in calls_of(page, piece)))
