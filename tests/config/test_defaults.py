"""The default of a config key stands with the key, and in no second place."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from detectron2.config import get_cfg
from hyperclip.config import flat_config

from tests.helpers.defaults import CONFIG

ROOT = Path(__file__).parents[2]
OFF = (None, "", 0, False, (), "none", "auto")
"""What stands for nothing, or for what is found out, and may be an argument's default."""

Definition = ast.FunctionDef | ast.ClassDef


def sources() -> Iterator[tuple[str, ast.Module]]:
    for folder in ("hyperclip", "cliper", "tools"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


TREES = dict(sources())
DEFINED: dict[str, Definition] = {
    node.name: node for tree in TREES.values() for node in tree.body if isinstance(node, Definition)
}
"""Functions and classes of all modules by their names."""


def defaults_of(definition: Definition) -> dict[str, ast.expr | None]:
    """The default of each parameter of a function or class, None for none, in order."""
    if isinstance(definition, ast.ClassDef):
        inits = [n for n in definition.body if getattr(n, "name", "") == "__init__"]
        if not inits:  # a dataclass or a named tuple
            fields = [n for n in definition.body if isinstance(n, ast.AnnAssign)]
            return {ast.unparse(field.target): field.value for field in fields}
        (definition,) = inits
    given = definition.args
    places = [*given.posonlyargs, *given.args]
    missing = [None] * (len(places) - len(given.defaults))
    found = dict(zip([p.arg for p in places], [*missing, *given.defaults], strict=True))
    found |= {p.arg: d for p, d in zip(given.kwonlyargs, given.kw_defaults, strict=True)}
    return {name: value for name, value in found.items() if name not in ("self", "cls")}


def stands_here(value: ast.expr | None) -> bool:
    """Whether a default is written out in its place, and more than "off"."""
    try:
        return value is not None and ast.literal_eval(value) not in OFF
    except ValueError:  # a name: the value stands elsewhere
        return False


def is_key(value: ast.expr) -> bool:
    """Whether an expression reads a config: cfg.TEST.PRECISION, or node.SIZE of a section."""
    return isinstance(value, ast.Attribute) and value.attr.isupper()


def filled(tree: ast.Module) -> Iterator[tuple[str, str, ast.expr | None]]:
    """Each argument that is a config's value: whose it is, its name, and its own default."""
    within = {
        call: scope.name
        for scope in tree.body
        if isinstance(scope, ast.ClassDef)
        for call in ast.walk(scope)
    }
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        name = within.get(call, "") if name == "cls" else name
        if name not in DEFINED:
            continue
        defaults = defaults_of(DEFINED[name])
        given = list(zip(defaults, call.args, strict=False))
        given += [(keyword.arg or "", keyword.value) for keyword in call.keywords]
        yield from ((name, a, defaults.get(a)) for a, value in given if is_key(value))


def test_what_a_config_fills_has_no_default():
    arguments = [found for tree in TREES.values() for found in filled(tree)]
    filled_in = [(name, argument) for name, argument, _ in arguments]
    assert len(filled_in) > 20 and ("Predictor", "precision") in filled_in
    assert [(name, a) for name, a, default in arguments if stands_here(default)] == []


def test_options_have_no_defaults():
    kinds = {
        ast.unparse(call.args[0])
        for tree in TREES.values()
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "options_of"
    }
    assert {"AdapterOptions", "FusionOptions", "HeadOptions", "SlidingWindow"} <= kinds
    fields = {kind: defaults_of(DEFINED[kind]) for kind in kinds}
    assert all(fields.values())
    assert [(k, n) for k, found in fields.items() for n, d in found.items() if d is not None] == []


def test_configurable_classes_have_no_defaults():
    found = {
        node.name: defaults_of(node)
        for tree in TREES.values()
        for node in tree.body
        if isinstance(node, ast.ClassDef) and "configurable\n" in ast.unparse(node)
    }
    assert {"HyperCLIP", "CLIPer", "CostVolumeHead", "SemSegMapper"} <= found.keys()
    own = [(k, n) for k, names in found.items() for n, d in names.items() if d is not None]
    assert own == [("HyperCLIP", "train_vocabulary")]  # of the dataset, not of the config


def test_no_other_default_is_that_of_a_key_of_its_name():
    """Such as an argument ``block_size`` that is 128 where MODEL.ADAPTER.BLOCK_SIZE is."""
    theirs = dict(flat_config(get_cfg()))
    known: dict[str, list] = {}
    for key, value in flat_config(CONFIG):
        if theirs.get(key) != value:
            known.setdefault(key.rpartition(".")[2].lower(), []).append(value)
    assert known["block_size"] == [128] and "float32" in known["precision"]
    definitions = [n for t in TREES.values() for n in ast.walk(t) if isinstance(n, Definition)]
    repeated = [
        (definition.name, name)
        for definition in definitions
        for name, value in defaults_of(definition).items()
        if stands_here(value) and ast.literal_eval(value) in known.get(name, [])
    ]
    assert repeated == []


@pytest.mark.parametrize(
    ("code", "stands"),
    [("128", True), ("-1", True), ("(24, 24)", True), ("''", False), ("IGNORE", False)],
)
def test_what_counts_as_a_default(code, stands):
    assert stands_here(ast.parse(code, mode="eval").body) is stands
