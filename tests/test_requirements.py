"""The bounds of setup.py: the locked versions are within them, and torch's is the lowest that
works.
"""

from __future__ import annotations

import re
from pathlib import Path

import setuptools
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def declared(monkeypatch):
    """Requirements by name, of the package and its extras."""
    kept = {}
    monkeypatch.setattr(setuptools, "setup", lambda **keywords: kept.update(keywords))
    exec(
        compile(Path("setup.py").read_text(), "setup.py", "exec"),
        {"__file__": str(Path("setup.py").resolve())},
    )
    lines = [
        *kept["install_requires"],
        *(line for extra in kept["extras_require"].values() for line in extra),
    ]
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


def test_the_locked_versions_are_within_the_bounds(monkeypatch):
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)$", Path("requirements.lock").read_text(), re.M))
    locked = {canonicalize_name(name): version for name, version in locked.items()}
    for name, requirement in declared(monkeypatch).items():
        if name in locked:
            assert requirement.specifier.contains(locked[name]), name


def test_the_lowest_torch(monkeypatch):
    """2.6 brought the norm of all gradients that a training step takes."""
    bounds = declared(monkeypatch)
    assert not bounds["torch"].specifier.contains("2.5.1") and bounds["torch"].specifier.contains(
        "2.6.0"
    )
    assert not bounds["torchvision"].specifier.contains("0.20.1") and hasattr(
        torch.nn.utils, "get_total_norm"
    )


def test_nobody_is_told_to_install_the_package_by_its_name(monkeypatch):
    """On PyPI it is another one's. Extras that are named exist."""
    extras = {}
    monkeypatch.setattr(setuptools, "setup", lambda **keywords: extras.update(keywords))
    source = Path("setup.py")
    exec(compile(source.read_text(), "setup.py", "exec"), {"__file__": str(source.resolve())})
    suffixes = {".py", ".md", ".ipynb", ".sh", ".yaml", ".yml", ".toml", ""}
    asked = set()
    for folder in ("hyperclip", "cliper", "configs", "datasets", "demo", "docs", "tools", "."):
        files = Path(folder).rglob("*") if folder != "." else Path(folder).glob("*")
        for path in files:
            if path.is_file() and path.suffix in suffixes and "tinyscenes/" not in path.as_posix():
                text = path.read_text("utf-8", errors="replace")
                assert not re.search(r"pip install (-\S+ )*\\?[\"']?hyperclip\b", text), path
                asked.update(re.findall(r"how_to_install\([\"'](\w+)[\"']\)", text))
    assert asked and asked <= set(extras["extras_require"])
