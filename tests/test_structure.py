"""The rooms stand on floors: imports go down, and there is no circle."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hyperclip.vocabulary.vocabulary import LISTS

from tests.helpers.fake_trees import BARE

ROOT = Path(__file__).parents[1]
FLOORS = (
    ("hyperclip.labels", "hyperclip.normalization"),
    ("hyperclip.runtime", "hyperclip.hyperbolic", "hyperclip.visualization"),
    ("hyperclip.config", "hyperclip.vocabulary", "hyperclip.results", "hyperclip.hub"),
    ("hyperclip.dense_features",),
    ("hyperclip.clip", "hyperclip.head"),
    ("hyperclip.adapters",),
    ("hyperclip.score_maps", "hyperclip.tinyscenes", "hyperclip.zoo"),
    ("hyperclip.segmenter", "hyperclip.inference", "hyperclip.blending"),
    ("hyperclip.wrapper", "hyperclip.export_parts"),
    ("hyperclip.test_time",),
    ("hyperclip.stages",),
    ("hyperclip.meta_arch", "hyperclip.data", "hyperclip.checkpoints", "cliper"),
    ("hyperclip.load", "hyperclip.prediction", "hyperclip.stages.proposers"),
    ("hyperclip.pretrained", "hyperclip.ensemble"),
    ("hyperclip.predictor", "hyperclip.evaluation", "hyperclip.export"),
    ("hyperclip.analysis", "hyperclip.large"),
    ("hyperclip.training", "hyperclip.page", "hyperclip.serving"),
    ("hyperclip.commands",),
)
"""From the ground up. A module imports from floors below it, or from its own room."""

ROOMS = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def modules() -> dict[str, Path]:
    """Every module of the packages by its dotted name."""
    files = [path for package in ("hyperclip", "cliper") for path in (ROOT / package).rglob("*.py")]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    return {name.removesuffix(".__init__"): path for name, path in zip(names, files, strict=True)}


def imports(name: str, path: Path) -> Iterator[str]:
    """Modules of the packages that a module imports, those inside functions too."""
    known = modules()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - max(0, node.level - 1)]
            source = ".".join([*(base if node.level else []), *filter(None, [node.module])])
            wanted = [
                f"{source}.{alias.name}" if f"{source}.{alias.name}" in known else source
                for alias in node.names
            ]
        else:
            continue
        yield from (module for module in wanted if module in known)


def room_of(module: str) -> str:
    """The room that a module belongs to; the package itself, which only names others, is none."""
    parts = module.split(".")
    return next(
        (room for k in range(len(parts), 0, -1) if (room := ".".join(parts[:k])) in ROOMS), ""
    )


GRAPH = {name: set(imports(name, path)) for name, path in modules().items()}


def test_every_module_has_a_floor():
    assert [name for name in GRAPH if name != "hyperclip" and not room_of(name)] == []


def test_imports_go_down():
    up = [
        f"{name} -> {target}"
        for name, targets in GRAPH.items()
        for target in targets
        if name != "hyperclip"
        and target != "hyperclip"
        and room_of(target) != room_of(name)
        and ROOMS[room_of(target)] >= ROOMS[room_of(name)]
    ]
    assert up == []


def test_there_is_no_circle():
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module in done:
            return
        for target in GRAPH[module] - {"hyperclip"}:
            visit(target, (*path, module))
        done.add(module)

    for module in GRAPH:
        visit(module, ())


def test_hyperclip_does_not_know_cliper():
    named = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "hyperclip").rglob("*.py")
        if "import cliper" in path.read_text(encoding="utf-8")
        or "from cliper" in path.read_text(encoding="utf-8")
    ]
    assert named == []


@pytest.mark.parametrize(
    ("imported", "absent"),
    [
        ("hyperclip.predictor", ("hyperclip.training", "detectron2.engine")),
        (
            ", ".join(m for m in GRAPH if m.startswith("hyperclip.data")),
            ("open_clip", "hyperclip.clip"),
        ),
        ("hyperclip.data.label_conversion", ("open_clip", "torch", "detectron2")),
        ("hyperclip.data.registry", ("open_clip", "torch", "detectron2")),
        ("hyperclip.tinyscenes.drawing", ("open_clip", "torch", "detectron2")),
        ("hyperclip.vocabulary", ("open_clip", "torch", "detectron2")),
        ("hyperclip.hub", ("open_clip", "torch", "detectron2")),
        ("hyperclip", ("torch", "detectron2", "open_clip")),
    ],
)
def test_what_an_import_pulls_in(imported, absent):
    code = f"import {imported}, sys; print([m for m in {absent!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "script", sorted((ROOT / "datasets").glob("prepare_*.py")), ids=lambda p: p.stem
)
def test_preparation_needs_no_torch(script):
    """Nor Detectron2. The tests of the conversions also run them without these."""
    code = BARE.replace("__main__", "imported")
    done = subprocess.run(
        [sys.executable, "-c", code, str(script)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


def test_built_in_class_lists_need_no_network():
    names = [path.stem for path in LISTS.glob("*.json")]
    code = f"""
import sys
sys.modules |= dict.fromkeys(("torch", "open_clip"))
from hyperclip.vocabulary import asked_names, builtin
print(sum(len(asked_names(builtin(name), "first")) for name in {names}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert int(done.stdout) == sum(
        len(json.loads(p.read_text())["classes"]) for p in LISTS.glob("*.json")
    )


LEGEND = {
    "B": "image view",
    "V": "view",
    "T": "class",
    "P": "prompt",
    "N": "token patch",
    "C": "embedding channel",
    "D": "width",
    "H W": "image",
    "h w": "grid patch score",
    "L": "layer block",
    "A": "head",
    "t": "class row",
    "n": "token patch",
    "d": "head",
    "b": "block",
    "r": "resolution",
}
"""Words of which one says what a letter of shapes is; CONTRIBUTING.md lists the letters."""
LETTERS = set("".join(LEGEND).replace(" ", ""))
DIMENSION = re.compile(r"\.\.\.|…|\d*[A-Za-z]'?|\d+|\d* ?[A-Za-z] ?[-+*/] ?\d+|[a-z] \+ [a-z]")


def declared(docstring: str) -> dict[str, str]:
    """What the first lines of a module say of letters: "B images, N = h w patches"."""
    sentence = re.search(r"Shapes: (.*?)\.(?: |$)", " ".join(docstring.split()))
    parts = re.split(r", ", sentence[1]) if sentence else []
    found = (re.match(r"((?:[A-Za-z] )+)(?:= )?(.*)", part) for part in parts)
    return {match[1].strip(): match[2] for match in found if match}


def shapes(docstring: str) -> set[str]:
    """The letters of tuples such as (B, T, 4h, 4w)."""
    letters: set[str] = set()
    for group in re.findall(r"\(([^()]*)\)", " ".join(docstring.split())):
        parts = [part for part in group.split(", ") if part]
        if len(parts) > 1 and all(DIMENSION.fullmatch(part) for part in parts):
            if any(re.search("[A-Z]", part) for part in parts):
                letters |= set(re.findall("[A-Za-z]", group))
    return letters


@pytest.mark.parametrize("package", ["hyperclip", "cliper", "reference"])
def test_letters_of_shapes_mean_the_same_everywhere(package):
    told = 0
    for path in (ROOT / package).rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        docstrings = [ast.get_docstring(n) or "" for n in ast.walk(tree) if isinstance(n, kinds)]
        own = declared(ast.get_docstring(tree) or "")
        for letters, meaning in own.items():
            words = LEGEND.get(letters, meaning).split()
            assert any(word in meaning for word in words), (path, letters, meaning)
            assert letters in LEGEND or not set(letters) & LETTERS - set("hwHW"), (path, letters)
        used = set().union(*map(shapes, docstrings))
        unknown = used - LETTERS - {letter for letters in own for letter in letters.split()}
        assert not unknown, (path, sorted(unknown))
        told += len(own)
    assert told > 5


def test_the_legend_of_letters_is_told():
    told = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert all(re.search(rf"\b{letters} [a-z]", told) for letters in LEGEND)
