"""The third system of docs/new_system.md, as it is printed there, through every program; and what
IMPORTS does.
"""

from __future__ import annotations

import ast
import os
import re

import numpy as np
import pytest
import torch
from hyperclip.config import keys, load_config
from hyperclip.config.key_rules import KeyRules
from hyperclip.page.systems import Systems, offered
from hyperclip.predictor import Predictor
from hyperclip.tinyscenes.drawing import render_scene
from hyperclip.vocabulary import Vocabulary
from PIL import Image

from tests.conftest import ROOT
from tests.helpers.programs import run_program
from tests.helpers.results import rows_of
from tests.quickstart.test_quickstart import root  # noqa: F401  (a fixture)

BLOCKS = dict(
    re.findall(
        r"```(python|yaml)\n(.*?)```",
        (ROOT / "docs/new_system.md").read_text(encoding="utf-8"),
        re.S,
    )
)
WORDS = "red plain circle; blue striped star; green dotted cross"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The page's config, beside its module in a folder where Python finds it."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "key_key_clip.py").write_text(BLOCKS["python"], encoding="utf-8")
    (folder / "key_key.yaml").write_text(BLOCKS["yaml"], encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder / "key_key.yaml"


@pytest.fixture(scope="module")
def predictor(config):
    return Predictor.from_config(config, ["MODEL.DEVICE", "cpu"])


def run(config, data, *arguments):
    """Run a program that finds the module, and datasets in a folder."""
    path = os.pathsep.join([str(config.parent), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "DETECTRON2_DATASETS": str(data)}
    done = run_program(*arguments, environment=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_it_is_short():
    (system,) = [
        node for node in ast.parse(BLOCKS["python"]).body if isinstance(node, ast.ClassDef)
    ]
    assert system.end_lineno - system.lineno + 1 <= 60


def test_both_programs_that_evaluate_give_the_same_rows(config, root, tmp_path):  # noqa: F811
    cpu = ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", 0]
    run(
        config,
        root,
        "tools/train_net.py",
        "--config-file",
        config,
        "--eval-only",
        "OUTPUT_DIR",
        tmp_path / "one",
        *cpu,
    )
    run(
        config,
        root,
        "tools/evaluate.py",
        "--config-file",
        config,
        "--benchmarks",
        "own",
        "--output",
        tmp_path / "two",
        "--allow-partial",
        "--opts",
        *cpu,
    )
    one, two = rows_of(tmp_path / "one"), rows_of(tmp_path / "two")
    assert set(one) == set(two) == {"tinyscenes_val_seen", "tinyscenes_val_unseen"}
    for name, row in one.items():
        assert row["system"] == "KeyKeyCLIP" and row["protocol"] == "argmax" and row["images"] == 6
        # of 60 classes, guessing gives less than 1
        assert row["mIoU"] > 5 and row["published"] == []
        same = ("IoU", "mIoU", "pACC", "protocol", "vocabulary", "backbone", "settings", "images")
        assert {key: row[key] for key in same} == {key: two[name][key] for key in same}


def test_the_demo_the_page_and_python_give_the_same_labels(config, predictor, root, tmp_path):  # noqa: F811
    image = render_scene("val_seen", 0)[0]
    Image.fromarray(image).save(tmp_path / "scene.png")
    expected = predictor.segment(predictor.encode(image), WORDS)
    assert (
        expected.names == Vocabulary.from_text(WORDS).names and len(np.unique(expected.labels)) > 1
    )
    run(
        config,
        root,
        "demo/demo.py",
        "--config-file",
        config,
        "--input",
        tmp_path / "scene.png",
        "--output",
        tmp_path / "out",
        "--vocabulary",
        WORDS,
        "--opts",
        "MODEL.DEVICE",
        "cpu",
    )
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "out/scene_labels.png")), expected.labels
    )
    systems = Systems(offered([[str(config), "MODEL.DEVICE", "cpu"]]))
    shown = systems.model(str(config)).predictor
    answer = shown.segment(shown.encode(image), Vocabulary.from_text(WORDS))
    np.testing.assert_array_equal(answer.labels, expected.labels)


def test_it_attends_by_its_keys(predictor):
    """Against the whole last block, its queries replaced by its keys."""
    image = torch.from_numpy(render_scene("val_seen", 1)[0]).permute(2, 0, 1)
    (encoded,) = predictor.model.encode([image])
    visual = predictor.model.clip.visual
    *_, last = visual.transformer.resblocks
    seen, width = [], last.attn.embed_dim
    hook = last.ln_1.register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.no_grad():
        visual(predictor.model.normalise(image)[None])
        hook.remove()
        projections = last.attn.in_proj_weight.split(width), last.attn.in_proj_bias.split(width)
        weight, bias = (torch.cat([kind[1], kind[1], kind[2]]) for kind in projections)
        found, _ = torch.nn.functional.multi_head_attention_forward(
            *[seen[0].transpose(0, 1)] * 3,
            width,
            last.attn.num_heads,
            weight,
            bias,
            None,
            None,
            False,
            0.0,
            last.attn.out_proj.weight,
            last.attn.out_proj.bias,
            training=False,
        )
        patches = visual.ln_post(found.transpose(0, 1))[:, 1:] @ visual.proj
        expected = torch.nn.functional.normalize(patches, dim=-1)
    torch.testing.assert_close(encoded.flatten(2).transpose(1, 2), expected, atol=1e-5, rtol=1e-4)


def test_thresholds_leave_pixels_out(predictor):
    encoded = predictor.encode(render_scene("val_seen", 0)[0])
    plain = predictor.segment(encoded, WORDS)
    for options, least in (({"background": "threshold"}, 0.5), ({"threshold": 0.7}, 0.7)):
        labels = predictor.segment(encoded, WORDS, **options).labels
        np.testing.assert_array_equal(labels, np.where(plain.confidence < least, -1, plain.labels))


def test_a_module_that_is_missing_or_broken_is_one_line(config, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "needs_another.py").write_text("import a_module_that_nobody_has\n")
    for name, why in (
        ("nowhere_to_find", "No module named 'nowhere_to_find'"),
        ("", "Empty module name"),
        ("needs_another", "No module named 'a_module_that_nobody_has'"),
    ):
        message = rf"^config key IMPORTS \(command line\): got '{name}', which cannot be imported \({why}\)\. Expected "  # noqa: E501
        with pytest.raises(ValueError, match=message) as error:
            load_config(config, ["IMPORTS", f"['{name}']"])
        assert "\n" not in str(error.value)
    with pytest.raises(
        ValueError,
        match=r"config key IMPORTS \(command line\): got 'one', expected a list of texts",
    ):
        load_config(config, ["IMPORTS", "one"])


def test_a_module_brings_keys_of_its_own(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(keys, "_PACKAGES", dict(keys._PACKAGES))
    (tmp_path / "brings_keys.py").write_text(
        "from hyperclip.config import extend_config\n"
        "def add_keys(cfg):\n    cfg.MODEL.BLUR_WIDTH = 3\n"
        "extend_config(add_keys)\n"
    )
    (tmp_path / "a.yaml").write_text("IMPORTS: [brings_keys]\nMODEL: {BLUR_WIDTH: 5}\n")
    (tmp_path / "b.yaml").write_text("_BASE_: a.yaml\nSEED: 3\n")
    cfg = load_config(tmp_path / "b.yaml")
    assert (cfg.MODEL.BLUR_WIDTH, cfg.SEED, cfg.IMPORTS) == (5, 3, ["brings_keys"])
    assert KeyRules() in keys._PACKAGES.values()


@pytest.mark.parametrize(
    "stages", [[], ["TEST.AUG.ENABLED", "True"], ["TEST.REFINER.NAME", "guided"]]
)
def test_it_computes_in_half_precision(config, predictor, stages):
    """Its scores are bfloat16 then; answers are float32, and nearly the same."""
    half = Predictor.from_config(
        config, ["MODEL.DEVICE", "cpu", "TEST.PRECISION", "bfloat16", *stages]
    )
    image = render_scene("val_seen", 3)[0]
    for scores in (False, True):
        found = half.segment(half.encode(image), WORDS, scores=scores)
        assert found.confidence.dtype == np.float32
    if not stages:
        exact = predictor.segment(predictor.encode(image), WORDS, scores=True)
        np.testing.assert_allclose(found.scores, exact.scores, atol=0.1)
