"""The report on a vocabulary's names."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hyperclip.clip import TextEmbedder, load_clip
from hyperclip.clip.words_report import (
    ReportOptions,
    class_embeddings,
    far_names,
    make_report,
    near_pairs,
    nearest_others,
)
from hyperclip.commands import vocabulary as program
from hyperclip.vocabulary import Vocabulary
from torch.nn import functional as F

from reference import vocabulary as reference

CONFIG = "configs/quickstart/dense_clip.yaml"
CPU = ["--opts", "MODEL.DEVICE", "cpu"]


@pytest.fixture(scope="module")
def loaded():
    return load_clip("configs/quickstart/tiny_clip")


def test_pairs_against_the_reference():
    generator = torch.Generator().manual_seed(0)
    for count in (1, 5, 9):
        embeddings = F.normalize(torch.randn(count, 4, generator=generator), dim=1)
        names = [f"name {k}" for k in range(count)]
        pairs = near_pairs(embeddings, names, 0.2)
        assert {(a, b): pytest.approx(c, abs=1e-5) for a, b, c in pairs} == reference.near_pairs(
            embeddings, names, 0.2
        )
        assert [c for _, _, c in pairs] == sorted((c for _, _, c in pairs), reverse=True)


def test_names_out_of_context_and_others():
    near = F.normalize(torch.tensor([[1, 0.1, 0], [1, 0, 0.1], [1, 0.1, 0.1], [1.0, 0, 0]]), dim=1)
    odd = torch.tensor([[0.0, 0.6, 0.8]])
    names = ["a", "b", "c", "d", "odd"]
    found = far_names(torch.cat([near, odd]), names, 1.5)
    assert [(name, nearest) for name, nearest, _ in found] == [("odd", "c")]
    assert far_names(torch.cat([near[:1], odd]), names, 0) == []
    others = torch.tensor([[0.0, 0, 1], [0, 1, 0], [0.8, 0.6, 0]])
    order = nearest_others(torch.cat([near, odd]), names, others, ["x", "y", "z"])
    assert [(o, n) for o, n, _ in order] == [("z", "a"), ("x", "odd"), ("y", "odd")]
    assert order[1][2] == pytest.approx(0.8)
    two = class_embeddings(torch.eye(3), [0, 0, 1])
    torch.testing.assert_close(two[0], torch.tensor([1.0, 1, 0]) / math.sqrt(2))


@pytest.mark.parametrize("rule", ["first", "max"])
def test_a_report(loaded, rule):
    text = TextEmbedder(loaded.tokenizer, ("a photo of a {}.",), rule)
    classes = (("red star",), ("blue striped circle", "ring"), ("plus", "RED  star"), ("cross",))
    words = Vocabulary(classes, "shapes", background=("wall",))
    others = ["wall", "red star", "green star", "Green  star", "red cross", "ring"]
    found = make_report(loaded.model, text, words, others, ReportOptions(0.99, 1, 3))
    assert (found.names, found.context, found.vocabulary) == (4, 32, "shapes")
    assert found.same == [("red star", "RED  star")]
    if rule == "first":
        assert found.longest[0] == ("a photo of a blue striped circle.", 10)
    assert {name for name, _, _ in found.negatives} <= {"green star", "red cross"}
    json.dumps(found.as_dict())
    none = make_report(loaded.model, text, words, others, ReportOptions(negatives=0))
    assert none.negatives == []


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"near": 1.5}, "--near: got 1.5, expected a cosine"),
        ({"near": math.nan}, "--near: got nan"),
        ({"far": -1}, "--far: got -1, expected 0 or more"),
        ({"negatives": -1}, "--negatives: got -1"),
    ],
)
def test_options(options, problem):
    with pytest.raises(ValueError, match=problem):
        ReportOptions(**options)


def test_the_program(tmp_path, capsys):
    target = tmp_path / "new" / "report.json"
    given = ["--config-file", CONFIG, "--near", "0.9", "--json", str(target)]
    words = "red plain circle; red plain square; blue dotted star"
    assert program.main([words, *given, *CPU]) == 0
    said = capsys.readouterr().out
    assert "vocabulary 'custom': 3 classes; the longest prompt has" in said
    assert '--negatives "' in said and "same tokens, so one embedding: none" in said
    report = json.loads(target.read_text(encoding="utf-8"))
    assert report["names"] == 3 and len(report["negatives"]) <= 10
    assert all(cosine >= 0.9 for _, _, cosine in report["near"])


def test_what_a_vocabulary_may_be(tmp_path):
    assert program.choose_vocabulary("ade150").name == "ade150"
    assert program.choose_vocabulary("dog, puppy; road").classes[0] == ("dog", "puppy")
    (tmp_path / "a.txt").write_text("dog\nroad\n")
    assert program.choose_vocabulary(str(tmp_path / "a.txt")).names == ["dog", "road"]
    with pytest.raises(FileNotFoundError, match=r"absent.json"):
        program.choose_vocabulary(str(tmp_path / "absent.json"))
