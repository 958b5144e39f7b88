"""Ensembles: the weighted mean of members' scores on one scale, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hyperclip import load_config
from hyperclip.ensemble import Ensemble, member_configs
from hyperclip.evaluation.kept_rows import named_contents
from hyperclip.load import build_system, load_model
from hyperclip.predictor import Predictor
from hyperclip.segmenter import Question, Segmenter
from hyperclip.stages import Regions, Staged
from hyperclip.stages.proposers import RegionFiles
from hyperclip.test_time import Augmented

from reference import combining as reference
from tests.conftest import ROOT
from tests.stages.test_stages import CPU, IMAGES, QUESTIONS, Foreign, make

BOTH = "configs/quickstart/both.yaml"
SIZE = (50, 61)


@pytest.fixture(scope="module")
def members():
    return [make("dense_clip"), make("cliper_fusion")]


def ensemble(members, weights=(), threshold=0.5) -> Ensemble:
    names = [f"member {i}" for i in range(len(members))]
    largest = [2 if hasattr(member, "fusion") else 1 for member in members]
    return Ensemble(
        members=members,
        largest=largest,
        names=names,
        weights=weights,
        background_threshold=threshold,
    )


@pytest.mark.parametrize("weights", [(), (3.0, 1.0), (0.0, 2.0)])
def test_against_the_mean_of_the_members_by_themselves(members, weights):
    both = ensemble(members, weights)
    question = replace(QUESTIONS["scores"], background="none")
    scores = []
    for member, largest in zip(members, (1, 2), strict=True):
        own = member.segment(member.encode(IMAGES)[1], question, SIZE)
        scores.append(own.scores / largest)
    expected = reference.weighted_mean(scores, weights or (1.0, 1.0))
    encoded = both.encode(IMAGES)[1]
    answer = both.segment(encoded, question, SIZE)
    torch.testing.assert_close(answer.scores, expected, atol=1e-5, rtol=1e-5)
    assert 0 <= float(answer.scores.min()) and float(answer.scores.max()) <= 1
    best, labels = answer.scores.max(dim=0)
    one = both.segment(encoded, QUESTIONS["own"], SIZE)
    torch.testing.assert_close(one.confidence, best)
    assert (one.labels == labels).float().mean() > 0.99 and (one.labels >= 0).all()


def test_thresholds_are_the_question_s_or_the_ensemble_s(members):
    both = ensemble(members, threshold=0.3)
    encoded = both.encode(IMAGES)[0]
    confidence = both.segment(encoded, QUESTIONS["own"], SIZE).confidence
    words = QUESTIONS["own"].vocabulary
    for question, level in (
        (Question(words, "threshold"), 0.3),
        (Question(words, "threshold", pixel_threshold=0.25), 0.25),
    ):
        labels = both.segment(encoded, question, SIZE).labels
        assert torch.equal(labels == -1, confidence < level)
    left_out = both.segment(encoded, Question(words, class_threshold=0.99), SIZE).labels
    assert (left_out == -1).all()


def test_words_and_other_are_asked_of_all(members):
    both = ensemble(members)
    encoded = both.encode(IMAGES)[0]
    for name in ("words", "other"):
        labels = both.answer(encoded, QUESTIONS[name], SIZE).labels
        assert labels.shape == SIZE and labels.max() < 3
    foreign = ensemble([members[0], Foreign()])
    assert foreign.text is None
    with pytest.raises(ValueError, match="'other': Ensemble has no embeddings"):
        foreign.answer(foreign.encode(IMAGES)[0], QUESTIONS["other"], SIZE)


def test_the_shipped_one_and_its_stages():
    keys = [*CPU, "TEST.REFINER.NAME", "guided", "TEST.AUG.ENABLED", "True"]
    cfg = load_config(BOTH, keys)
    staged = load_model(cfg)
    assert isinstance(staged.system, Augmented)
    both = staged.system.system
    assert isinstance(both, Ensemble) and both.names == ("hyperclip_trained", "cliper")
    assert both.largest == (1, 2) and both.trained_on == ("tinyscenes_train",)
    predictor = Predictor(staged, config=cfg)
    prediction = predictor.segment(predictor.encode(IMAGES[0]), "red circle; blue star")
    assert prediction.labels.shape == (96, 96) and 0 < prediction.confidence.max() <= 1.01
    found = both.describe()
    assert found.system == "Ensemble" and found.method == ""
    assert list(found.settings["members"]) == ["hyperclip_trained", "cliper"]
    assert found.settings["members"]["cliper"]["system"] == "CLIPer"
    with pytest.raises(ValueError, match="got an ensemble.*save each of them"):
        predictor.save_pretrained("never-written")
    with pytest.raises(ValueError, match="Ensemble is training-free"):
        both.losses([])


def test_rows_depend_on_the_members_files(tmp_path):
    text = (ROOT / BOTH).read_text(encoding="utf-8")
    dense = f"_BASE_: {ROOT}/configs/quickstart/dense_clip.yaml\n"
    (tmp_path / "hyperclip_trained.yaml").write_text(dense, encoding="utf-8")
    (tmp_path / "cliper.yaml").write_text(dense + "SEED: 1\n", encoding="utf-8")
    (tmp_path / "both.yaml").write_text(text, encoding="utf-8")
    before = named_contents(load_config(tmp_path / "both.yaml"))
    assert any("CLIP_PRETRAINED" in key for key in before)
    assert before == named_contents(load_config(tmp_path / "both.yaml"))
    base = tmp_path / "base.yaml"
    base.write_text(dense + "SEED: 2\n", encoding="utf-8")
    (tmp_path / "cliper.yaml").write_text("_BASE_: base.yaml\n", encoding="utf-8")
    changed = named_contents(load_config(tmp_path / "both.yaml"))
    base.write_text(dense + "SEED: 3\n", encoding="utf-8")
    assert (
        len({str(before), str(changed), str(named_contents(load_config(tmp_path / "both.yaml")))})
        == 3
    )


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        (["CONFIGS", "[]"], ValueError, "CONFIGS: got .*expected two or more"),
        (["CONFIGS", "['configs/quickstart/cliper.yaml']"], ValueError, "two or more"),
        (["CONFIGS", "['a.yaml', 'a.yaml']"], ValueError, "each another one"),
        (["CONFIGS", "['a.yaml', 'b.yaml']"], FileNotFoundError, "CONFIGS: got 'a.yaml'"),
        (["CONFIGS", f"['{BOTH}', 'b.yaml']"], ValueError, "which is an ensemble itself"),
        (["WEIGHTS", "[1.0]"], ValueError, r"WEIGHTS: got \[1.0\], expected 2 numbers"),
        (["WEIGHTS", "[0, 0]"], ValueError, "not all 0"),
        (["WEIGHTS", "['a', 1]"], ValueError, "WEIGHTS: got .*expected 2 numbers"),
        (["WEIGHTS", "[-1.0, 2.0]"], ValueError, "WEIGHTS .*expected 0 or more"),
    ],
)
def test_mistakes_of_a_config(keys, error, message):
    with pytest.raises(error, match=message):
        build_system(load_config(BOTH, [*CPU, f"MODEL.ENSEMBLE.{keys[0]}", keys[1]]))


@pytest.mark.parametrize("key", ["MODEL.SYNONYMS", "MODEL.PROMPT_ENSEMBLE_TYPE", "MODEL.WEIGHTS"])
def test_what_belongs_to_the_members(key):
    value = {"MODEL.SYNONYMS": "mean", "MODEL.WEIGHTS": "x.pth"}.get(key, "scene")
    with pytest.raises(ValueError, match=f"{key}: .*members have configs of their own"):
        member_configs(load_config(BOTH, [*CPU, key, value]))


def test_mistakes_of_members(members):
    one, other = members
    with pytest.raises(ValueError, match="got 1, expected two or more"):
        ensemble([one])
    with pytest.raises(ValueError, match="got an ensemble"):
        ensemble([one, ensemble(members)])
    with pytest.raises(ValueError, match="expected 2 numbers"):
        ensemble(members, (1.0, 2.0, 3.0))
    with pytest.raises(ValueError, match="member 0 on cpu, member 1 on meta"):
        ensemble([one, Foreign().to("meta")])
    assert isinstance(other, Segmenter)


def test_members_know_the_files_of_images(tmp_path):
    """A member whose stage looks for a file by the image's name."""
    np.save(tmp_path / "a.npy", np.ones((96, 96), np.int64))
    cut = Staged(make("dense_clip"), [Regions(RegionFiles(tmp_path), "mean")])
    both = ensemble([cut, make("dense_clip")])
    (record,) = ({"image": IMAGES[0], "file_name": f"{name}.jpg"} for name in "a")
    whole = both.segment(both.encode_records([record])[0], QUESTIONS["scores"], SIZE)
    member = cut.segment(cut.encode_records([record])[0], QUESTIONS["scores"], SIZE)
    other = make("dense_clip")
    plain = other.segment(other.encode(IMAGES)[0], QUESTIONS["scores"], SIZE)
    torch.testing.assert_close(whole.scores, (member.scores + plain.scores) / 2)
    both.check_records([record])
    with pytest.raises(FileNotFoundError, match="'c.jpg': no file"):
        both.check_records([{"file_name": "c.jpg"}])
    assert both.has_features and not ensemble([Foreign(), Foreign()]).has_features
