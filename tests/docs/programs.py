"""Whether programs take what pages give them: their own parsers and checks, and nothing is run."""

from __future__ import annotations

import argparse
import ast
import csv
import importlib
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from hyperclip.commands import (
    app,
    check_datasets,
    choose_templates,
    demo,
    evaluate,
    new_dataset,
    segment_large,
    serve,
    visualize,
)
from hyperclip.commands import vocabulary as words_report
from hyperclip.commands.demo_results import chosen_kinds
from hyperclip.config import load_config
from hyperclip.data import find_dataset
from hyperclip.data.dataset_file import register_files
from hyperclip.page.systems import offered
from hyperclip.results import build_writers
from torch.distributed.run import get_args_parser

from tests.conftest import ROOT
from tests.docs.reading import Command, calls_of

ANY_CONFIG = "configs/vitb_384_hyperbolic.yaml"
SETUP = (ROOT / "setup.py").read_text(encoding="utf-8")


class Parsed(Exception):
    """What a program understood, instead of what it would do."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__()
        self.arguments = arguments


@contextmanager
def parsers_only() -> Iterator[None]:
    """Programs raise :class:`Parsed` when they have read their command line."""
    original = argparse.ArgumentParser.parse_args

    def parse(self: argparse.ArgumentParser, *given: object) -> argparse.Namespace:
        raise Parsed(original(self, *given))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse)
        yield


def written_out(words: Sequence[str]) -> list[str]:
    """Words without what stands for others: `…`, `[KEY VALUE …]`, `[FILE …]`; in other brackets is
    what may be left out.
    """
    text = "\0".join(words).replace("--config-file\0…", f"--config-file\0{ANY_CONFIG}")
    text = re.sub(r"\0\[(?:KEY\0VALUE|FILE)\0…\]", "", text)
    text = re.sub(r"\0\[([A-Z][\w.]+\0\w+)\]", r"\0\1", text)
    return [word for word in text.split("\0") if word != "…"]


def program_of(words: Sequence[str]) -> tuple[str, list[str]]:
    """The name of a program, one for all ways to call it, and its arguments."""
    if words[0] != "python":
        return words[0], list(words[1:])
    if words[1] == "-m":
        return f"-m {words[2]}", list(words[3:])
    alike = {"train_net": "train"}
    stem = Path(words[1]).stem
    installed = f"hyperclip-{alike.get(stem, stem).replace('_', '-')}"
    return installed if installed in CHECKS else words[1], list(words[2:])


def parse(program: str, words: list[str], script: str) -> argparse.Namespace:
    """What a program's own parser makes of its arguments."""
    with parsers_only(), pytest.MonkeyPatch.context() as patch, pytest.raises(Parsed) as caught:
        patch.setattr(sys, "argv", [program, *words])
        if program.startswith("hyperclip-"):
            name = program.removeprefix("hyperclip-").replace("-", "_")
            importlib.import_module(f"hyperclip.commands.{name}").main(words)
        elif program.startswith("-m "):
            module = importlib.import_module(program.removeprefix("-m "))
            if hasattr(module, "__path__"):  # a package
                module = importlib.import_module(f"{module.__name__}.__main__")
            module.main()
        else:
            patch.syspath_prepend((ROOT / script).parent)
            runpy.run_path(str(ROOT / script), run_name="__main__")
    return caught.value.arguments


def check_training(arguments: argparse.Namespace) -> None:
    check_config(arguments.config_file, arguments.opts)


def check_config(file: str, overrides: Sequence[str]) -> None:
    """The config takes the overrides, and knows the datasets that it names."""
    cfg = load_config(file, list(overrides))
    register_files(cfg.DATASETS.FILES)
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        find_dataset(name)


def check_evaluation(arguments: argparse.Namespace) -> None:
    evaluate.load_systems(arguments)
    named = [name for name in arguments.benchmarks.split(",") if name not in ("all", "own")]
    check_datasets.choose(named)


def check_demo(arguments: argparse.Namespace) -> None:
    cfg = demo.chosen_config(arguments)
    demo.check_threshold(cfg, arguments.threshold)
    chosen_kinds(arguments.save)
    names = demo.choose_question(cfg, arguments).vocabulary.names if arguments.vocabulary else ["a"]
    build_writers(arguments.format, arguments.output, names)


def check_large(arguments: argparse.Namespace) -> None:
    segment_large.request_of(arguments, demo.chosen_config(arguments))


def check_page(arguments: argparse.Namespace) -> None:
    offered(arguments.config_file)
    app.limits_of(arguments.max_megapixels, arguments.max_megabytes)


def check_drawing(arguments: argparse.Namespace) -> None:
    check_config(arguments.config_file, arguments.opts)
    visualize.chosen_kinds(arguments.show)
    visualize.points_of(arguments.at)
    if arguments.dataset:
        find_dataset(arguments.dataset)


def check_radii(arguments: argparse.Namespace) -> None:
    check_config(arguments.config_file, arguments.opts)
    if arguments.dataset:
        find_dataset(arguments.dataset)


def check_speed(arguments: argparse.Namespace) -> None:
    """The cases and the files of earlier measurements are there."""
    files = [Path(name) for name in (arguments.csv, arguments.compare) if name]
    ours = [file for file in files if file.parent == Path("speed/results")]
    assert all((ROOT / file).is_file() for file in ours), ours
    tables = (ROOT / "speed/results").glob("*.csv")
    rows = [row for file in tables for row in csv.DictReader(file.open(encoding="utf-8"))]
    known = [row["case"] for row in rows if row["suite"] in arguments.suites]
    assert not arguments.only or any(arguments.only in case for case in known), arguments.only


def check_words(arguments: argparse.Namespace) -> None:
    words_report.report_options(arguments)
    words_report.choose_vocabulary(arguments.vocabulary)
    words_report.chosen_config(arguments)


def check_server(arguments: argparse.Namespace) -> None:
    serve.chosen_config(arguments)
    serve.limits_of(arguments)
    serve.sizes_of(arguments)


def nothing_more(arguments: argparse.Namespace) -> None:
    """The parser has said it all."""


WITHOUT_ARGUMENTS = r"datasets/prepare_\w+\.py|tools/install_detectron2\.py"
CHECKS: dict[str, Callable[[argparse.Namespace], object]] = {
    "hyperclip-train": check_training,
    "hyperclip-evaluate": check_evaluation,
    "hyperclip-demo": check_demo,
    "hyperclip-app": check_page,
    "hyperclip-segment-large": check_large,
    "hyperclip-new-dataset": new_dataset.request_of,
    "hyperclip-build-bank": demo.chosen_config,
    "hyperclip-check-datasets": lambda arguments: check_datasets.choose(arguments.datasets),
    "hyperclip-analyze-errors": nothing_more,
    "hyperclip-doctor": nothing_more,
    "hyperclip-visualize": check_drawing,
    "hyperclip-analyze-radius": check_radii,
    "hyperclip-export": lambda arguments: check_config(arguments.config_file, arguments.opts),
    "demo/onnx_demo.py": nothing_more,
    "hyperclip-export-clip": lambda arguments: check_config(arguments.config_file, arguments.opts),
    "hyperclip-choose-templates": choose_templates.question_of,
    "hyperclip-vocabulary": check_words,
    "tools/compare_runs.py": nothing_more,
    "tools/quickstart_table.py": nothing_more,
    "datasets/prepare_tinyscenes.py": nothing_more,
    "tools/shrink_checkpoint.py": nothing_more,
    "tests/mutants.py": nothing_more,
    "speed/large_image.py": nothing_more,
    "-m speed": check_speed,
    "hyperclip-serve": check_server,
    "-m hyperclip.serving.client": nothing_more,
    "-m hyperclip.serving.load": nothing_more,
}
"""What is checked of a program's arguments behind its parser."""


def check_command(command: Command) -> None:
    """Everything that the command names exists, and its program takes the arguments."""
    words = written_out(command.words)
    program, arguments = program_of(words)
    if words[0] == "python" and words[1].endswith(".py"):
        assert (ROOT / words[1]).is_file(), words[1]
    if program in CHECKS and (arguments or program != words[0]):
        CHECKS[program](parse(program, arguments, words[1]))
    elif program in CHECKS:  # the name alone
        assert f'"{program.removeprefix("hyperclip-")}"' in SETUP
    elif program in OTHERS:
        OTHERS[program](Command(command.page, tuple(words), command.given, command.environment))
    else:
        assert re.match(WITHOUT_ARGUMENTS, program) and not arguments, f"unknown: {command}"


def check_code(code: str) -> None:
    """The code compiles, and the modules and names that it imports exist."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
            assert not missing, f"{node.module} has no {missing}"


def check_tests(command: Command) -> None:
    """``python -m pytest``: the files are there, if any are named."""
    files = [word for word in command.words[3:] if word.startswith("tests")]
    assert all((ROOT / file).exists() for file in files), files


def check_torchrun(command: Command) -> None:
    arguments = get_args_parser().parse_args(command.words[1:])
    words = ("python", arguments.training_script, *arguments.training_script_args)
    check_command(Command(command.page, words))


def check_installation(command: Command) -> None:
    """``pip install``: this package from its folder, since its name is another one's on PyPI, with
    extras that it has, or a package that its code names.
    """
    (wanted,) = [word for word in command.words[2:] if not word.startswith("-")]
    name, _, extras = wanted.rstrip("]").partition("[")
    assert name != "hyperclip"
    if name == ".":
        assert all(f'"{extra}": [' in SETUP for extra in extras.split(",") if extra), wanted
    else:
        modules = (ROOT / "hyperclip").rglob("*.py")
        assert any(f'"{name}"' in path.read_text("utf-8") for path in modules), wanted


def check_slurm(command: Command) -> None:
    """``sbatch``: options that the script's own lines have, and what it would start."""
    text = (ROOT / "tools/slurm.sh").read_text(encoding="utf-8")
    asked = re.findall(r"--[a-z-]+", " ".join(command.words))
    known = {*re.findall(r"^#SBATCH (--[a-z-]+)", text, re.M), "--gpus-per-node"}
    assert set(asked) <= known, set(asked) - known
    if "tools/slurm.sh" in command.words:
        words = command.words[command.words.index("tools/slurm.sh") :]
        check_script(Command(command.page, ("bash", *words), environment=(("DRY_RUN", "1"),)))


def check_container(command: Command) -> None:
    """``docker compose up SERVICE``."""
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    assert command.words[1:3] == ("compose", "up"), command
    assert set(command.words[3:]) <= set(compose["services"]), command


def check_script(command: Command) -> None:
    """``bash FILE``: its syntax, and every command that it would run with these arguments."""
    script, *arguments = command.words[1:]
    subprocess.run(["bash", "-n", ROOT / script], check=True)
    if script == "tools/setup.sh":  # which installs things
        assert not arguments
        return
    run = printed_by if script == "tools/slurm.sh" else called_by
    calls = run(script, arguments, dict(command.environment), command.page)
    assert calls
    for call in calls:
        check_command(call)


def printed_by(
    script: str, arguments: list[str], environment: dict[str, str], page: str
) -> list[Command]:
    """The training of the command that ``DRY_RUN=1`` prints."""
    assert environment == {"DRY_RUN": "1"}
    shell = [shutil.which("bash"), ROOT / script, *arguments]
    environment |= {"PATH": "/usr/bin:/bin", "PYTHON": "python"}
    done = subprocess.run(shell, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    _, _, training = done.stdout.replace("--config-file", "\0--config-file").partition("\0")
    assert training.split()[1] in arguments and "--resume" in training
    return calls_of(page, f"python tools/train_net.py {training}")


RECORDING = """#!/usr/bin/env bash
printf '%q ' python "$@" >> "$CALLS"
echo >> "$CALLS"
"""
"""A Python that notes its command line as shell code."""


def called_by(
    script: str, arguments: list[str], environment: dict[str, str], page: str
) -> list[Command]:
    """The calls of Python by a script, run in an empty repository where everything is set up."""
    folder = Path.cwd() / "repository"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "tools").mkdir(parents=True)
    shutil.copy(ROOT / script, folder / script)
    (folder / "tools/setup.sh").write_text('echo "$RECORDER"\n')
    for name in ("python", "chromium", "chromedriver"):
        (folder / name).write_text(RECORDING)
        (folder / name).chmod(0o755)
    recorder = str(folder / "python")
    own = {"CALLS": str(folder / "calls"), "RECORDER": recorder, "PYTHON": recorder}
    path = {"PATH": f"{folder}:/usr/bin:/bin"}
    shell = [shutil.which("bash"), folder / script, *arguments]
    done = subprocess.run(shell, env={**environment, **own, **path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    calls = calls_of(page, (folder / "calls").read_text(encoding="utf-8"))
    if "RESUME" in environment:
        assert any("--resume" in call.words for call in calls)
    if "OVERWRITE" in environment:
        assert any("OVERWRITE" in call.words for call in calls)
    return calls


OTHERS: dict[str, Callable[[Command], None]] = {
    "-": lambda command: check_code(command.given),
    "-m pytest": check_tests,
    "-m ruff": lambda command: None,
    "-m mypy": lambda command: None,
    "torchrun": check_torchrun,
    "pip": check_installation,
    "sbatch": check_slurm,
    "docker": check_container,
    "bash": check_script,
}
