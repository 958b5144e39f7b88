"""TEST.ASK "present": a model is asked the names in each image's labels alone.

The model's scores are given, so that its answers are known without it.
"""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from hyperclip.config.keys import load_config
from hyperclip.data import DATASETS, find_dataset
from hyperclip.data.class_lists import test_vocabulary as evaluated_vocabulary
from hyperclip.data.label_maps import read_record_label
from hyperclip.data.mapper import SemSegMapper
from hyperclip.evaluation.asking import PresentNames, dataset_question
from hyperclip.evaluation.result_rows import Benchmark, describe_evaluation
from hyperclip.evaluation.results_files import read_results
from hyperclip.evaluation.running import evaluate_dataset
from hyperclip.evaluation.tables import benchmark_table, comparison_table
from hyperclip.labels import NO_CLASS
from hyperclip.segmenter import Description, Question, Segmentation, Segmenter
from hyperclip.training import Trainer
from hyperclip.training.run_folder import check_output_folder
from hyperclip.vocabulary import Vocabulary
from PIL import Image

from reference import evaluation as reference
from tests.helpers import fake_trees
from tests.helpers.programs import run_program

DENSE, HYPERCLIP, CLIPER = (
    f"configs/quickstart/{name}.yaml" for name in ("dense_clip", "hyperclip", "cliper_fusion")
)
CPU = ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0"]
PRESENT = [*CPU, "TEST.ASK", "present"]
IGNORE = 255


class Given(Segmenter):
    """Scores of each image, told apart by its grey value, and name: {name: (H, W)}. With a
    background pixels below 0.5 have no class, and with ``abstains`` always.
    """

    def __init__(self, scores, abstains=False):
        super().__init__()
        self.given, self.abstains, self.asked = scores, abstains, []

    def encode(self, images):
        return [round(float(image.float().mean())) for image in images]

    def segment(self, encoded, question, size):
        names = question.vocabulary.names
        self.asked.append((encoded, tuple(names), question.background))
        scores = torch.stack([torch.from_numpy(self.given[encoded][name]) for name in names])
        confidence, labels = scores.max(0)
        if question.background == "threshold" or self.abstains:
            labels = labels.masked_fill(confidence < 0.5, NO_CLASS)
        return Segmentation(labels, confidence)

    def describe(self, dataset=()):
        return Description("Given", abstains=self.abstains)


@pytest.fixture
def dataset(monkeypatch, tmp_path):
    """Registers label maps as a dataset: ``dataset(labels, names, background, words)`` gives its
    records; the grey value of image k is k.
    """

    def make(labels, names, background="none", words=()):
        records = []
        for k, label in enumerate(labels):
            Image.fromarray(np.asarray(label, np.uint8)).save(tmp_path / f"{k}.png")
            grey = np.full((*np.shape(label), 3), k, np.uint8)
            Image.fromarray(grey).save(tmp_path / f"image{k}.png")
            paths = {"file_name": f"image{k}.png", "sem_seg_file_name": f"{k}.png"}
            records.append({key: str(tmp_path / v) for key, v in paths.items()} | {"image_id": k})
        spec = dataclasses.replace(
            find_dataset("a150"),
            name="asked",
            alias="asked",
            images=(),
            background=background,
            vocabularies={
                "catseg": Vocabulary(
                    tuple((name,) for name in names), "asked", background=tuple(words)
                )
            },
        )
        monkeypatch.setitem(DATASETS, "asked", spec)
        classes = [*names, *(["background"] if background != "none" else [])]
        DatasetCatalog.register("asked", lambda: records)
        MetadataCatalog.get("asked").set(stuff_classes=classes, ignore_label=IGNORE)
        return records

    yield make
    DatasetCatalog.pop("asked", None)
    MetadataCatalog.pop("asked", None)


def test_by_hand(dataset):
    """A cat and a dog; "cow" has the best score everywhere, and is in the second image only. The
    third has no label.
    """
    labels = [[[0, 0, 1, 1]], [[2, 2, 0, IGNORE]], [[IGNORE] * 4]]
    records = dataset(labels, ["cat", "dog", "cow"])
    given = {
        0: {"cat": [[0.8, 0.1, 0.3, 0.2]], "dog": [[0.2, 0.2, 0.7, 0.6]], "cow": [[0.9] * 4]},
        1: {"cat": [[0.1, 0.95, 0.95, 0.1]], "dog": [[1.0] * 4], "cow": [[0.9] * 4]},
        2: {"cat": [[0.1] * 4], "dog": [[0.1] * 4], "cow": [[0.9] * 4]},
    }
    given = {k: {n: np.array(v) for n, v in names.items()} for k, names in given.items()}
    model = Given(given)
    found = evaluate_dataset(load_config(DENSE, PRESENT), model, "asked", records=records)
    assert model.asked == [(0, ("cat", "dog"), "own"), (1, ("cat", "cow"), "own")]
    # image 0: cat dog dog dog; image 1: cow cat cat and one that does not count
    cat, dog, cow = 2 / 4, 2 / 3, 1 / 2
    scores = found.scores
    assert [scores[f"IoU-{name}"] for name in ("cat", "dog", "cow")] == pytest.approx(
        [100 * cat, 100 * dog, 100 * cow]
    )
    assert scores["mIoU"] == pytest.approx(100 * (cat + dog + cow) / 3)
    assert scores["pACC"] == pytest.approx(100 * 5 / 7) and scores["images"] == 2
    usual = evaluate_dataset(load_config(DENSE, CPU), Given(given), "asked", records=records)
    assert (found.ask, usual.ask) == ("present", "all") and usual.scores["images"] == 3
    assert usual.scores["mIoU"] == 0 and usual.scores["pACC"] == 0


def by_loops(labels, given, names, background, words, abstains):
    """Truth and counted prediction of each image with a label, pixel by pixel."""
    pairs, last = [], len(names)
    for k, label in enumerate(labels):
        here = {int(v) for v in label.ravel()} - {IGNORE}
        if not here:
            continue
        has_background = background != "none" and last in here
        answer = np.full(label.shape, -1)
        for pixel in np.ndindex(label.shape):
            best = -1.0
            for c in sorted(here - ({last} if background != "none" else set())):
                if given[k][names[c]][pixel] > best:
                    best, answer[pixel] = given[k][names[c]][pixel], c
            for word in words if has_background else ():
                if given[k][word][pixel] > best:
                    best, answer[pixel] = given[k][word][pixel], last
            may_abstain = abstains or (has_background and background == "threshold")
            if may_abstain and best < 0.5:
                answer[pixel] = last if has_background else -1
        pairs.append((label, answer))
    return pairs


@pytest.mark.parametrize("abstains", [False, True])
@pytest.mark.parametrize("background", ["none", "threshold", "fold"])
def test_random_cases_against_an_oracle(dataset, background, abstains):
    """Images of background alone and without labels among them, in batches of three."""
    rng = np.random.default_rng(["none", "threshold", "fold"].index(background))
    names = [f"thing {k}" for k in range(5)]
    words = ["tree", "wall"] if background == "fold" else []
    classes = len(names) + (background != "none")
    labels = []
    for k in range(30):
        some = rng.choice(classes, rng.integers(1, classes + 1), replace=False)
        some = [classes - 1] if k == 7 else [IGNORE] if k in (3, 4, 5, 11) else some
        labels.append(rng.choice([*some, IGNORE], (3, 4)))
    given = {k: {name: rng.random((3, 4)) for name in [*names, *words]} for k in range(len(labels))}
    records = dataset(labels, names, background, words)
    cfg = load_config(DENSE, [*PRESENT, "TEST.IMS_PER_BATCH", "3"])
    found = evaluate_dataset(cfg, Given(given, abstains), "asked", records=records).scores
    pairs = by_loops(labels, given, names, background, words, abstains)
    expected = reference.scores(pairs, classes, IGNORE)
    assert found["images"] == len(pairs) < len(labels)
    for key in ("mIoU", "mIoU_old", "pACC", "mACC"):
        assert found[key] == pytest.approx(expected[key]), key


def test_who_has_a_background():
    cfg = load_config(DENSE, CPU)
    asked = {a: dataset_question(cfg, find_dataset(a).name) for a in ("pas20", "pas20b", "voc21")}
    assert {alias: question.background for alias, question in asked.items()} == {
        "pas20": "own",
        "pas20b": "own",
        "voc21": "threshold",
    }


@pytest.mark.parametrize("label", [2, 7])
def test_a_label_that_is_no_class(dataset, label):
    records = dataset([[[0, label]]], ["cat", "dog"])
    cfg = load_config(DENSE, PRESENT)
    with pytest.raises(
        ValueError, match=rf"asked, .*0.png: label: got values \[{label}\], expected"
    ):
        evaluate_dataset(cfg, Given({}), "asked", records=records)


def test_no_image_with_a_label(dataset):
    records = dataset([[[IGNORE]]] * 2, ["cat", "dog"])
    scores = evaluate_dataset(load_config(DENSE, PRESENT), Given({}), "asked", records=records)
    assert scores.scores["images"] == 0 and np.isnan(scores.scores["mIoU"])


def test_classes_of_the_same_first_name_are_asked_once(dataset):
    """As in the released list of 847 classes, where the second can never win."""
    cfg = load_config(DENSE, PRESENT)
    names = evaluated_vocabulary(cfg, "ade20k_full_sem_seg_freq_val_all").names
    second = next(k for k, name in enumerate(names) if name in names[:k])
    first = names.index(names[second])
    dataset([[[0]]], ["cat"])
    present = PresentNames(cfg, "ade20k_full_sem_seg_freq_val_all")
    path = DatasetCatalog.get("asked")[0]["sem_seg_file_name"]
    for here, asked in (([first, second, 846], [first, 846]), ([second, 846], [second, 846])):
        Image.fromarray(np.array([here], np.uint16)).save(path)
        assert present({"sem_seg_file_name": path}).prompts.tolist() == asked


@pytest.mark.parametrize("alias", ["pas20", "pas20b", "voc21"])
@pytest.mark.parametrize("config", [HYPERCLIP, CLIPER])
def test_both_systems_with_every_background(tmp_path, monkeypatch, config, alias):
    """Against asking each image by hand; HyperCLIP aggregates one class of each view alone."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    fake_trees.voc2012(tmp_path)
    pruned = [] if config == CLIPER else ["MODEL.SEM_SEG_HEAD.MAX_CLASSES", "1"]
    cfg = load_config(config, [*PRESENT, *pruned])
    torch.manual_seed(0)
    model, spec = build_model(cfg).eval(), find_dataset(alias)
    records = DatasetCatalog.get(spec.name)
    found = evaluate_dataset(cfg, model, spec.name, records=records).scores
    whole, last = evaluated_vocabulary(cfg, spec.name), len(spec.label_names) - 1
    mapper, pairs = SemSegMapper(cfg, is_train=False), []
    for record in records:
        truth = read_record_label(record)
        here = sorted({int(v) for v in np.unique(truth)} - {IGNORE})
        if not here:
            continue
        background = spec.background != "none" and last in here
        places = [k for k in here if not (background and k == last)]
        if background and spec.background == "fold":
            places += range(last, len(whole))
        answer = np.full(truth.shape, -1)
        if places:
            classes = tuple(whole.classes[k] for k in places)
            question = Question(
                dataclasses.replace(whole, classes=classes),
                "threshold" if background and spec.background == "threshold" else "own",
            )
            (result,) = model([{**mapper(record), "question": question}])
            labels = result["sem_seg_labels"].numpy()
            answer = np.where(labels < 0, -1, np.array(places)[labels])
        if background:
            answer = np.where((answer < 0) | (answer >= last), last, answer)
        pairs.append((truth, answer))
    expected = reference.scores(pairs, last + 1, IGNORE)
    assert found["images"] == len(pairs) and found["mIoU"] == pytest.approx(expected["mIoU"])


def rows_for(folder, ask):
    cfg = load_config(
        DENSE,
        [*CPU, "TEST.ASK", ask, "OUTPUT_DIR", str(folder), "DATASETS.TEST", "('pas20',)"],
    )
    Trainer.test(cfg, build_model(cfg).eval())
    return read_results(folder)


def test_results_and_tables_name_it(tmp_path, monkeypatch):
    """And two ways of asking share no column."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    fake_trees.voc2012(tmp_path)
    usual, present = rows_for(tmp_path / "all", "all"), rows_for(tmp_path / "present", "present")
    assert (usual[0]["ask"], usual[0]["protocol"]) == ("all", "argmax")
    assert (present[0]["ask"], present[0]["protocol"]) == ("present", "argmax, present names")
    assert present[0]["pACC"] >= usual[0]["pACC"]  # what was right among all is so among fewer
    assert present[0]["mIoU"] != usual[0]["mIoU"]
    assert "argmax, present names" in (tmp_path / "present/results.md").read_text()
    assert any("only the names in each image's labels" in note for note in present[0]["notes"])
    assert not any("labels are asked" in note for note in usual[0]["notes"])
    name = present[0]["dataset"]
    assert f"{name} (mIoU, present names)" in comparison_table({"a": [present]}, "mIoU")
    assert f"{name} (mIoU) " in comparison_table({"a": [usual]}, "mIoU")
    for runs in ({"a": [usual], "b": [present]}, {"a": [present, usual]}):
        with pytest.raises(ValueError, match=f"dataset {name}: .* are not comparable"):
            comparison_table(runs, "mIoU")
    old = [{k: v for k, v in usual[0].items() if k != "ask"}]
    assert comparison_table({"a": [usual], "b": [old]}, "mIoU")
    done = run_program(
        "tools/compare_runs.py", f"a={tmp_path / 'all'}", f"b={tmp_path / 'present'}"
    )
    assert done.returncode == 1 and "are not comparable. Evaluate them the same way" in done.stderr


@pytest.mark.parametrize("ask", ["all", "present"])
def test_no_paper_stands_beside_it(dataset, ask):
    records = dataset([[[0]], [[IGNORE]]], ["cat", "dog"])
    cfg = load_config("configs/vitb_384_hyperbolic.yaml", [*CPU, "TEST.ASK", ask])
    spec = find_dataset("pas20")
    given = {k: {"cat": np.array([[0.6]]), "dog": np.array([[0.4]])} for k in range(2)}
    found = evaluate_dataset(cfg, Given(given), "asked", records=records)
    papers = Description("HyperCLIP", "ViT-B/16", "HyperCLIP")
    found = dataclasses.replace(found, description=papers)
    row = describe_evaluation(cfg, Benchmark(spec, records, 2), found)
    assert bool(row["published"]) == (ask == "all")
    skipped = "1 images without any label skipped"
    assert (skipped in row["notes"]) == (ask == "present")
    assert ("none" in benchmark_table([row]).split("\n")[2]) == (ask == "present")


def test_a_training_keeps_its_way_of_asking(tmp_path):
    """Its scores before and after --resume would not be comparable."""
    keys = [*CPU, "OUTPUT_DIR", str(tmp_path)]
    (tmp_path / "config.yaml").write_text(load_config(HYPERCLIP, keys).dump())
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    (tmp_path / "model_0000001.pth").write_text("")
    check_output_folder(load_config(HYPERCLIP, [*keys, "TEST.BOUNDARY_IOU", "True"]), resume=True)
    for key, before, now in (("ASK", "all", "present"), ("BACKGROUND", "dataset", "other")):
        changed = load_config(HYPERCLIP, [*keys, f"TEST.{key}", now])
        with pytest.raises(ValueError, match=f"TEST.{key}: {before} -> {now}"):
            check_output_folder(changed, resume=True)


def test_only_two_ways_are_known():
    with pytest.raises(ValueError, match=r"TEST.ASK .*: got 'some', expected one of \['all', 'pre"):
        load_config(DENSE, ["TEST.ASK", "some"])


def test_scores_of_each_image_leave_out_the_skipped(dataset, tmp_path):
    records = dataset([[[0, 1]], [[IGNORE, IGNORE]]], ["cat", "dog"])
    keys = [*PRESENT, "TEST.PER_IMAGE_RESULTS", "True", "OUTPUT_DIR", str(tmp_path / "out")]
    given = {0: {"cat": np.array([[0.6, 0.6]]), "dog": np.array([[0.4, 0.7]])}}
    evaluate_dataset(load_config(DENSE, keys), Given(given), "asked", records=records)
    (line,) = (tmp_path / "out/per_image/asked.jsonl").read_text().splitlines()
    assert json.loads(line) == {"image_id": 0, "mIoU": 100.0, "pACC": 100.0}


@pytest.mark.parametrize("background", ["none", "threshold", "words", "other"])
def test_the_background_of_a_set_can_be_found_in_other_ways(dataset, background):
    """Only of a set whose background is what no class is found in."""
    options = [*CPU, "TEST.BACKGROUND", background]
    dataset([[[0, 2]]], ["cat", "dog"], "threshold", ["sky"])
    assert dataset_question(load_config(DENSE, options), "asked").background == background
    assert (
        dataset_question(load_config(DENSE, options), "context_59_test_sem_seg").background == "own"
    )


def test_other_needs_more_than_the_present_names(dataset):
    records = dataset([[[0, 2]]], ["cat", "dog"], "threshold")
    cfg = load_config(DENSE, [*PRESENT, "TEST.BACKGROUND", "other"])
    with pytest.raises(ValueError, match="TEST.BACKGROUND 'other' with TEST.ASK 'present'"):
        evaluate_dataset(cfg, Given({}), "asked", records=records)


@pytest.mark.parametrize("background", ["dataset", "none", "other"])
def test_rows_say_how_the_background_was_found(dataset, background):
    """And no paper stands beside another way than its own."""
    records = dataset([[[0, 2]]], ["cat", "dog"], "threshold", ["sky"])
    options = [*CPU, "TEST.BACKGROUND", background]
    cfg = load_config("configs/vitb_384_hyperbolic.yaml", options)
    given = {"cat": np.array([[0.6, 0.1]]), "dog": np.array([[0.4, 0.2]])}
    system = Given({0: given})
    if background == "other":  # which asks a third class
        system.answer = system.segment
    found = evaluate_dataset(cfg, system, "asked", records=records)
    papers = dataclasses.replace(found, description=Description("CLIPer", "ViT-B/16", "CLIPer"))
    row = describe_evaluation(cfg, Benchmark(find_dataset("voc21"), records, 1), papers)
    assert row["protocol"] == ("threshold" if background == "dataset" else background)
    note = f"background by the rule {background!r} (TEST.BACKGROUND) instead of a threshold"
    assert any(note in text for text in row["notes"]) == (background != "dataset")
    assert bool(row["published"]) == (background == "dataset")
