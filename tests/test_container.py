"""Dockerfile and compose file: linted, and in keeping with what they build."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hyperclip.commands import app

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
STEPS = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.M)).splitlines()


def arguments(instruction):
    """What follows each use of an instruction."""
    return [line.split(maxsplit=1)[1] for line in STEPS if line.startswith(f"{instruction} ")]


def test_hadolint_finds_nothing():
    linter = Path(sys.executable).with_name("hadolint")
    found = subprocess.run([linter, "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "")


def test_what_is_copied_is_in_the_context(tmp_path):
    """.dockerignore leaves out everything but the names behind its '!'."""
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line[1:] for line in ignore if line.startswith("!")}
    copied = {name for line in arguments("COPY") for name in line.split()[:-1]}
    assert ignore[0] == "**" and copied == kept
    assert all((ROOT / name).exists() for name in copied)


def test_a_package_is_built_from_the_context_alone(tmp_path):
    for name in {name for line in arguments("COPY") for name in line.split()[:-1]}:
        source, target = ROOT / name, tmp_path / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.parent.mkdir(exist_ok=True)
            shutil.copy(source, target)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "."]
    subprocess.run([*build, "-w", "wheels"], cwd=tmp_path, check=True)
    (wheel,) = (tmp_path / "wheels").glob("hyperclip-*.whl")
    assert wheel.stat().st_size > 10e6  # with the shipped weights


def test_the_page_runs_without_rights_and_is_watched():
    assert arguments("USER") == ["1000"]
    port = app.parse_arguments([]).port
    assert arguments("EXPOSE") == [str(port)]
    assert f"127.0.0.1:{port}/" in arguments("HEALTHCHECK")[0]
    (entry,) = arguments("ENTRYPOINT")
    program, *options = json.loads(entry)
    assert program == "hyperclip-app" and app.parse_arguments(options).host == "0.0.0.0"


def test_the_programs_and_extras_exist():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    (extras,) = re.findall(r'"\.\[(.*?)\]"', DOCKERFILE)
    assert all(f'"{extra}": [' in setup for extra in extras.split(","))


@pytest.mark.parametrize("service", ["page", "page-gpu"])
def test_compose_serves_this_machine_alone(service):
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    chosen = compose["services"][service]
    stages = [line.split(" AS ")[1] for line in arguments("FROM")]
    assert chosen["build"]["target"] in stages
    assert all(port.startswith("127.0.0.1:") for port in chosen["ports"])
