"""Weights files: harmless data loads, other objects are named, any container and wrapper is seen
through.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import pathlib
from decimal import Decimal

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from hyperclip.runtime.weights import (
    UnreadableWeightsError,
    find_state_dict,
    read_weights,
    rename_for,
)
from safetensors.torch import save_file

from tests.conftest import SHARED

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}
HARMLESS = {
    "float64": np.float64(33.1),
    "bool": np.bool_(True),
    "text": np.str_("best"),
    "array": np.arange(6, dtype=np.int16).reshape(2, 3),
    "columns first": np.asfortranarray(np.eye(3, dtype=np.float16)),
    "names": np.array(["sky", "road"]),
    "day": np.datetime64("2026-01-02"),
    "dtype": np.dtype("f4"),
    "generator": np.random.RandomState(1).get_state()[1],
    "path": pathlib.PurePosixPath("/data/run"),
    "windows": pathlib.PureWindowsPath("c:/data/run"),
    "arguments": argparse.Namespace(
        lr=0.1, inner=argparse.Namespace(out=pathlib.PurePosixPath("x"))
    ),
    "date": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    "counts": collections.defaultdict(int, {"sky": 2}),
    "set": frozenset({1, 2}),
}


def same(a, b):
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b


@pytest.mark.parametrize("older", [False, True], ids=["zip", "older format"])
@pytest.mark.parametrize("value", HARMLESS.values(), ids=HARMLESS)
def test_harmless_data_beside_the_weights(tmp_path, value, older):
    path = tmp_path / "model.pth"
    torch.save({"model": STATE, "extra": value}, path, _use_new_zipfile_serialization=not older)
    content = read_weights(path, "KEY")
    assert same(content["extra"], value)
    assert torch.equal(find_state_dict(content, "file")["a.weight"], STATE["a.weight"])


def test_paths_and_configs_come_back_as_plain_data(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"model": STATE, "out": tmp_path, "cfg": get_cfg()}, path)
    content = read_weights(path, "KEY")
    assert content["out"] == pathlib.PurePosixPath(tmp_path)
    assert content["cfg"]["MODEL"]["META_ARCHITECTURE"] == "GeneralizedRCNN"


class Own:
    """A class that no reader knows."""


class Harmful:
    """What runs when it is read by an unguarded pickle."""

    def __reduce__(self):
        return (eval, ("open('was_run', 'w')",))


@pytest.mark.parametrize("older", [False, True], ids=["zip", "older format"])
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Own(), "test_weights.Own"),
        (Decimal("1"), "decimal.Decimal"),
        (Harmful(), "eval"),
        (torch.nn.Linear(1, 1), "Linear"),
    ],
)
def test_other_objects_are_named_in_one_line(tmp_path, monkeypatch, value, name, older):
    monkeypatch.chdir(tmp_path)
    torch.save(
        {"model": STATE, "extra": value}, "model.pth", _use_new_zipfile_serialization=not older
    )
    with pytest.raises(
        UnreadableWeightsError,
        match=rf"KEY 'model.pth' holds objects of .*{name}.*add_safe_globals",
    ) as error:
        read_weights("model.pth", "KEY")
    assert "\n" not in str(error.value) and not (tmp_path / "was_run").exists()


def test_what_a_program_allows_is_read(tmp_path):
    torch.save({"model": STATE, "extra": Own()}, tmp_path / "model.pth")
    with torch.serialization.safe_globals([Own]):
        assert isinstance(read_weights(tmp_path / "model.pth", "KEY")["extra"], Own)


def test_shared_cases():
    folder = SHARED / "cases" / "checkpoints"
    if not folder.is_dir():
        pytest.skip("../shared/cases is not here")
    content = read_weights(folder / "numpy_scalar_min.pth", "KEY")
    assert find_state_dict(content, "file") == {} and content["best_miou"] == 33.1
    with pytest.raises(ValueError, match="file holds a list, expected a state dict"):
        find_state_dict(read_weights(folder / "list_min.pth", "KEY"), "file")


ADAM = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]}
CONTAINED = {
    "plain": STATE,
    "Lightning": {"state_dict": STATE, "hyper_parameters": {"model": {"width": 3}}, "epoch": 4},
    "tutorial": {
        "epoch": 1,
        "model_state_dict": STATE,
        "optimizer_state_dict": ADAM,
        "loss": torch.tensor(0.5),
    },
    "deep": {"checkpoint": {"model": {"state_dict": STATE}}, "step": 3},
    "with an average": {"model": STATE, "ema": {k: v + 1 for k, v in STATE.items()}},
    "name of its own": {"segmenter": STATE, "optimizer": ADAM},
    "with random numbers": {"net": STATE, "rng": {"cpu": torch.zeros(3)}},
    "arrays": {"model": {k: v.numpy() for k, v in STATE.items()}},
}


@pytest.mark.parametrize("content", CONTAINED.values(), ids=CONTAINED)
def test_containers(content):
    found = find_state_dict(content, "file")
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[k], STATE[k]) for k in STATE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "file holds a list"),
        (torch.zeros(2), "file holds a Tensor"),
        (None, "file holds a NoneType"),
        ({}, "file holds no state dict of tensors; it holds nothing"),
        ({"epoch": 3, "model": "ViT-B/16"}, "it holds epoch, model"),
        ({"student": STATE, "teacher": STATE}, "several state dicts: student, teacher"),
    ],
)
def test_what_holds_no_state_dict(content, message):
    with pytest.raises(UnreadableWeightsError, match=message):
        find_state_dict(content, "file")


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "model.",
        "_orig_mod.",
        "model._orig_mod.",
        "_orig_mod.module.",
        "module.model.module._orig_mod.model.",
    ],
)
def test_wrappers_in_any_nesting(prefix):
    renamed = rename_for({prefix + k: v for k, v in STATE.items()}, STATE, "file")
    assert renamed.keys() == STATE.keys() and all(renamed[k] is STATE[k] for k in STATE)


def test_wrappers_inside_a_name_and_around_the_model():
    inside = {"a._orig_mod.weight": STATE["a.weight"], "a.module.bias": STATE["a.bias"]}
    assert rename_for(inside, STATE, "file").keys() == STATE.keys()
    wrapped = {f"module.{k}": v for k, v in STATE.items()}
    assert rename_for(STATE, wrapped, "file").keys() == wrapped.keys()
    assert rename_for(wrapped, wrapped, "file").keys() == wrapped.keys()
    own = {"model.x": STATE["a.bias"], "x": STATE["a.bias"]}  # names that only look wrapped
    assert rename_for(own, own, "file").keys() == own.keys()


def test_two_models_in_one_file():
    with pytest.raises(ValueError, match="holds a.bias twice"):
        rename_for({"a.bias": STATE["a.bias"], "model.a.bias": STATE["a.bias"]}, ["a.bias"], "file")


def test_safetensors_is_seen_from_the_content(tmp_path):
    save_file(STATE, tmp_path / "model.pth")
    assert torch.equal(read_weights(tmp_path / "model.pth", "KEY")["a.bias"], STATE["a.bias"])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"\x80\x02}q\x00.",
        b"<html>not found</html>",
    ],
)
def test_damaged_files(tmp_path, content):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(
        UnreadableWeightsError, match=r"KEY '.*model.pth' cannot be read .*cut short\?"
    ) as error:
        read_weights(path, "KEY")
    assert "\n" not in str(error.value)
