"""What a config may hold, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hyperclip.config.key_rules import FRAMEWORK, KeyRules
from hyperclip.config.keys import extend_config, load_config
from hyperclip.data.dataset_file import register_files

from tests.helpers.colours import keys_of, write_colours
from tests.training.test_curves import forget_colours

QUICK = "configs/quickstart/hyperclip.yaml"
CLIPER = "configs/quickstart/cliper.yaml"


def write(folder: Path, text: str, name: str = "config.yaml") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def value_of(cfg: Any, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def fault(path: Any, overrides: Any = (), kind: type[Exception] = ValueError) -> str:
    """The message of a config that is refused: one line."""
    with pytest.raises(kind) as caught:
        load_config(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


VALUES = [
    ("SOLVER.BASE_LR", "1", 1.0),
    ("SOLVER.WEIGHT_DECAY", "0", 0.0),
    ("TEST.BACKGROUND_THRESHOLD", "1", 1.0),
    ("SOLVER.EMA_DECAY", "1e-3", 1e-3),
    ("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "2", 2.0),
    ("TEST.BOUNDARY_IOU", "true", True),
    ("TEST.BOUNDARY_IOU", "True", True),
    ("INPUT.CROP.ENABLED", "FALSE", False),
    ("OUTPUT_DIR", "2024", "2024"),
    ("OUTPUT_DIR", "2024-01-01", "2024-01-01"),
    ("WANDB.NAME", "007", "007"),
    ("WANDB.NAME", "1e5", "1e5"),
    ("WANDB.NAME", "no", "no"),
    ("WANDB.PROJECT", "1.0", "1.0"),
    ("DATASETS.TRAIN", "[2024, no, a]", ("2024", "no", "a")),
    ("DATASETS.TEST", "('a',)", ("a",)),
    ("MODEL.CHECKPOINT_ACTIVATIONS", "[text, head]", ["text", "head"]),
    ("INPUT.CROP.SIZE", "[1, 0.5]", [1, 0.5]),
    ("SOLVER.CLIP_GRADIENTS.NORM_TYPE", ".inf", float("inf")),
    ("INPUT.MIN_SIZE_TRAIN", "(384, 512)", (384, 512)),
]


@pytest.mark.parametrize(("key", "text", "expected"), VALUES)
def test_values_mean_the_same_in_a_file_and_on_the_command_line(tmp_path, key, text, expected):
    *sections, name = key.split(".")
    lines = [f"{'  ' * depth}{part}:" for depth, part in enumerate(sections)] + [
        f"{'  ' * len(sections)}{name}: {text}"
    ]
    configs = [load_config(write(tmp_path, "\n".join(lines)))]
    if text != ".inf":  # YAML's word
        configs.append(load_config(QUICK, [key, text]))
    for cfg in configs:
        value = value_of(cfg, key)
        assert value == expected and type(value) is type(expected)


def test_values_that_are_no_texts_are_taken_from_python():
    cfg = load_config(
        QUICK,
        [
            "SOLVER.BASE_LR",
            1,
            "OUTPUT_DIR",
            Path("a/b"),
            "WANDB.NAME",
            12,
            "TEST.BOUNDARY_IOU",
            True,
        ],
    )
    assert (cfg.SOLVER.BASE_LR, cfg.OUTPUT_DIR, cfg.WANDB.NAME, cfg.TEST.BOUNDARY_IOU) == (
        1.0,
        "a/b",
        "12",
        True,
    )


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("SOLVER.MAX_ITER", "True", "a whole number"),
        ("SOLVER.MAX_ITER", "1.5", "a whole number"),
        ("SOLVER.BASE_LR", "fast", "a number"),
        ("SOLVER.BASE_LR", "True", "a number"),
        ("SOLVER.BASE_LR", "1e999", "a finite number"),
        ("TEST.SLIDING_WINDOW", "maybe", "True or False"),
        ("TEST.SLIDING_WINDOW", "2", "True or False"),
        ("MODEL.SEM_SEG_HEAD.DECODER_DIMS", "['a', 'b']", "a list of whole numbers"),
        ("MODEL.SEM_SEG_HEAD.DECODER_DIMS", "64", "a list of whole numbers"),
        ("MODEL.CLIP_PIXEL_STD", "[1, 2, 'x']", "a list of numbers"),
        ("DATASETS.TEST", "voc", "a list of texts"),
        ("MODEL.SEM_SEG_HEAD.WINDOW_SIZES", "0", "1 or more"),
        ("MODEL.SEM_SEG_HEAD.NUM_LAYERS", "-1", "1 or more"),
        ("MODEL.SEM_SEG_HEAD.PAD_LEN", "-1", "0 or more"),
        ("MODEL.SEM_SEG_HEAD.FEATURE_RESOLUTION", "[12, 0]", "1 or more"),
        ("MODEL.SEM_SEG_HEAD.SAMPLED_CLASSES", "-3", "0 or more"),
        ("TEST.CLASS_CHUNK", "-1", "0 or more"),
        ("TEST.IMS_PER_BATCH", "0", "1 or more"),
        ("SOLVER.IMS_PER_BATCH", "-4", "1 or more"),
        ("SOLVER.WARMUP_ITERS", "-1", "0 or more"),
        ("SOLVER.MAX_ITER", "0", "1 or more"),
        ("MODEL.CLIP_PIXEL_MEAN", "[1, 2]", "3 entries"),
        ("MODEL.SEM_SEG_HEAD.POOLING_SIZES", "[2]", "2 entries"),
        ("INPUT.CROP.TYPE", "square", "one of ['absolute'"),
        ("SOLVER.WARMUP_METHOD", "cosine", "one of ['linear'"),
        ("WANDB.MODE", "off", "one of ['online'"),
        ("SOLVER.EMA_DECAY", "1.5", "0 to 1"),
        ("DATALOADER.NUM_WORKERS", "-1", "0 or more"),
        ("DATALOADER.MAX_FAULTY_SHARE", "2", "0 to 1"),
        ("MODEL.CLIP_PIXEL_STD", "[0, 1, 1]", "1e-06 or more"),
        ("INPUT.SIZE_DIVISIBILITY", "-2", "-1 or more"),
        ("MODEL.CLIPER.DIFFUSION.STEPS", "0", "1 or more"),
        ("MODEL.CLIPER.WINDOW", "-224", "0 or more"),
        ("MODEL.CLIPER.ATTENTION_THRESHOLD", "1.5", "0 to 1"),
    ],
)
def test_what_is_no_such_value_is_named_with_what_is_expected(key, text, expected):
    message = fault(QUICK, [key, text])
    assert key in message and text.strip("'\"")[:3] in message and f"expected {expected}" in message


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"], "INPUT.MIN_SIZE_TRAIN"),
        (["INPUT.MIN_SIZE_TRAIN", "()"], "INPUT.MIN_SIZE_TRAIN"),
        (["INPUT.CROP.ENABLED", "True", "INPUT.CROP.SIZE", "[384, 384]"], "INPUT.CROP.SIZE"),
        (["SOLVER.BASE_LR_END", "1"], "SOLVER.BASE_LR_END"),
    ],
)
def test_values_that_do_not_fit_each_other(overrides, key):
    assert f"config key {key}: got" in fault(QUICK, overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.SEM_SEG_HEAD.CLIP_LAYERS", "[1]"], "expected two blocks"),
        (["MODEL.SEM_SEG_HEAD.CLIP_LAYERS", "[1, 2, 3]"], "expected two blocks"),
        (["MODEL.SEM_SEG_HEAD.CLIP_LAYERS", "[1, 7]"], "expected indices 0 to 4"),
        (
            ["MODEL.SEM_SEG_HEAD.DECODER_GUIDANCE_DIMS", "[32]"],
            "DECODER_GUIDANCE_DIMS .command line.: got .32., expected 2 entries",
        ),
        (["MODEL.SEM_SEG_HEAD.DECODER_DIMS", "[32, 16, 16]"], "expected 2 entries"),
    ],
)
def test_lists_of_the_head_are_checked_when_it_is_built(overrides, message):
    from hyperclip.load import build_model

    with pytest.raises(ValueError, match=message):
        build_model(load_config(QUICK, ["MODEL.DEVICE", "cpu", *overrides]))


def test_numbers_below_zero_that_mean_something_are_allowed():
    keys = ["SEED", "INPUT.SIZE_DIVISIBILITY", "MODEL.CLIPER.SINKHORN", "MODEL.CLIPER.SELECT_LAYER"]
    cfg = load_config(CLIPER, [part for key in keys for part in (key, "-1")])
    assert [value_of(cfg, key) for key in keys] == [-1] * 4


@pytest.mark.parametrize(
    ("key", "value", "advice"),
    [
        ("TEST.AUG.MIN_SIZES", "[400]", "use TEST.AUG.ZOOMS"),
        ("TEST.AUG.MAX_SIZE", "400", "use TEST.AUG.ZOOMS"),
        ("SOLVER.WEIGHT_DECAY_BIAS", "0", "WEIGHT_DECAY_NORM"),
        ("SOLVER.BIAS_LR_FACTOR", "2", "CLIP_MULTIPLIER"),
        ("SOLVER.REFERENCE_WORLD_SIZE", "8", "set IMS_PER_BATCH"),
        ("MODEL.SEM_SEG_HEAD.LOSS_WEIGHT", "2", "use SOLVER.BASE_LR"),
        ("MODEL.SEM_SEG_HEAD.CONVS_DIM", "64", "use HIDDEN_DIMS"),
        ("MODEL.SEM_SEG_HEAD.NORM", "BN", "use HIDDEN_DIMS"),
        ("MODEL.PIXEL_MEAN", "[0, 0, 0]", "use MODEL.CLIP_PIXEL_MEAN"),
        ("MODEL.BACKBONE.FREEZE_AT", "0", "CLIP_PRETRAINED"),
        ("MODEL.RESNETS.DEPTH", "101", "CLIP_PRETRAINED"),
        ("MODEL.RETINANET.NUM_CONVS", "2", "detectors; remove it"),
        ("MODEL.MASK_ON", "True", "detectors; remove it"),
        ("TEST.PRECISE_BN.ENABLED", "True", "no part of the model has batch norm"),
        ("TEST.DETECTIONS_PER_IMAGE", "10", "detectors; remove it"),
        ("DATALOADER.FILTER_EMPTY_ANNOTATIONS", "True", "every training image is used"),
        ("DATALOADER.REPEAT_THRESHOLD", "0.1", "drawn evenly"),
        ("INPUT.MASK_FORMAT", "bitmask", "labels are images"),
        ("VIS_PERIOD", "20", "use tools/visualize.py"),
    ],
)
def test_keys_that_nothing_reads_are_refused(tmp_path, key, value, advice):
    message = fault(QUICK, [key, value])
    assert f"config key {key} (command line) does nothing here" in message and advice in message
    nested = value
    for part in reversed(key.split(".")):
        nested = f"{{{part}: {nested}}}"
    assert f"config key {key} ({tmp_path}" in fault(write(tmp_path, nested))


def test_a_dumped_config_is_read_as_it_was(tmp_path):
    def plain(cfg: Any) -> Any:
        return yaml.safe_load(cfg.dump())

    for config in (QUICK, CLIPER, "configs/vitb_384_hyperbolic.yaml"):
        cfg = load_config(
            config, ["OUTPUT_DIR", "2024", "WANDB.NAME", "no", "SOLVER.BASE_LR", "1e-5"]
        )
        assert plain(load_config(write(tmp_path, cfg.dump()))) == plain(cfg)


def test_only_keys_that_are_read_may_be_set(monkeypatch, tmp_path, request):
    """A training is built under every schedule, and what it asks of its config is written down."""
    from detectron2.config import CfgNode
    from detectron2.projects.deeplab import build_lr_scheduler
    from hyperclip.training import Trainer
    from hyperclip.training.optimizer import build_optimizer

    data = write_colours(tmp_path)
    overrides = keys_of(
        data, 1, OUTPUT_DIR=tmp_path / "out", DATALOADER__NUM_WORKERS=0, TEST__EXPECTED_RESULTS="[]"
    )
    cfg = load_config(QUICK, overrides)
    register_files([data])
    request.addfinalizer(forget_colours)
    names: dict[int, str] = {id(cfg): ""}

    def name_all(node: CfgNode, prefix: str) -> None:
        names[id(node)] = prefix
        for key, child in node.items():
            if isinstance(child, CfgNode):
                name_all(child, f"{prefix}{key}.")

    name_all(cfg, "")
    asked: set[str] = set()
    plain = CfgNode.__getattr__

    def remember(node: CfgNode, name: str) -> Any:
        if id(node) in names:
            asked.add(names[id(node)] + name)
        return plain(node, name)

    monkeypatch.setattr("yacs.config.CfgNode.__getattr__", remember)
    trainer = Trainer(cfg)
    trainer.train()
    for optimizer in ("ADAMW", "SGD"):
        cfg.SOLVER.OPTIMIZER = optimizer
        built = build_optimizer(cfg, trainer.model)
    for schedule in (
        "WarmupPolyLR",
        "WarmupMultiStepLR",
        "WarmupStepWithFixedGammaLR",
        "WarmupCosineLR",
    ):
        cfg.SOLVER.LR_SCHEDULER_NAME, cfg.SOLVER.STEPS = schedule, ()
        build_lr_scheduler(cfg, built)
    monkeypatch.undo()
    asked |= {"VERSION", "SEED", "CUDNN_BENCHMARK", "OUTPUT_DIR"}  # of Detectron2's setup
    asked |= {"MODEL.WEIGHTS", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST"}  # of evaluation
    from detectron2.config import get_cfg
    from hyperclip.config import flat_config

    foreign = set(dict(flat_config(get_cfg())))
    assert set(FRAMEWORK.reads) - asked == set()
    assert (asked & foreign) - set(FRAMEWORK.reads) - {"DATASETS.FILES"} == set()


def test_an_extension_says_what_it_reads(tmp_path, monkeypatch):
    from hyperclip.config import keys as config

    monkeypatch.setattr(config, "_PACKAGES", dict(config._PACKAGES))

    def add_keys(cfg):
        cfg.MODEL.BLUR = config.CfgNode({"SHIFT": 0.0, "FILE": "", "SIZES": []})

    extend_config(add_keys, KeyRules(reads=("MODEL.RESNETS.DEPTH",), inputs=("MODEL.BLUR.FILE",)))
    (tmp_path / "x.json").write_text("{}")
    text = "MODEL: {RESNETS: {DEPTH: 101}, BLUR: {SHIFT: -1, FILE: x.json, SIZES: [1, 2.5]}}"
    cfg = load_config(write(tmp_path, text))
    assert (
        cfg.MODEL.RESNETS.DEPTH == 101
        and cfg.MODEL.BLUR.SHIFT == -1.0
        and cfg.MODEL.BLUR.SIZES == [1, 2.5]
    )
    assert cfg.MODEL.BLUR.FILE == str(tmp_path / "x.json")


LEGACY_CONFIG = """
MODEL:
  META_ARCHITECTURE: CATSeg
  BACKBONE: {FREEZE_AT: 0, NAME: D2SwinTransformer}
  SWIN: {EMBED_DIM: 128, DEPTHS: [2, 2, 18, 2]}
  PIXEL_MEAN: [123.675, 116.280, 103.530]
  SEM_SEG_HEAD: {NAME: CATSegHead, IN_FEATURES: [res2], PROMPT_DEPTH: 0, PROMPT_LENGTH: 0}
SOLVER: {BACKBONE_MULTIPLIER: 0.0}
"""


def test_all_that_a_config_of_cat_seg_holds_is_named_at_once(tmp_path):
    write(tmp_path, LEGACY_CONFIG, "base.yaml")
    leaf = write(
        tmp_path,
        "_BASE_: base.yaml\nSOLVER: {ADAN_EPS: 1.0e-8}\nTEST: {AUG: {MAX_SIZE: 9}}\nMODEL: {X: 1}",
    )
    message = fault(leaf, ["MODEL.PROMPT_ENSEMBLE", "True"])
    for part in (
        "use HyperCLIP",
        "expected CostVolumeHead",
        "BACKBONE.FREEZE_AT",
        "BACKBONE.NAME",
        "SWIN.EMBED_DIM",
        "SWIN.DEPTHS",
        "MODEL.PIXEL_MEAN",
        "IN_FEATURES",
        "PROMPT_DEPTH",
        "PROMPT_LENGTH",
        "BACKBONE_MULTIPLIER",
        "ADAN_EPS",
        "TEST.AUG.MAX_SIZE",
        "unknown config key MODEL.X",
        "PROMPT_ENSEMBLE (command line)",
    ):
        assert part in message, part
    assert fault(leaf).startswith("14 faults")


def test_a_key_twice_is_named_in_the_file_and_in_its_bases(tmp_path):
    base = write(tmp_path, "MODEL:\n  CLIPER: {SIZE: 1,\n    SIZE: 2}\n", "base.yaml")
    message = fault(write(tmp_path, "_BASE_: base.yaml\n"))
    assert str(base) in message and "'SIZE' is there twice, in line 2 and in line 3" in message
    both = write(tmp_path, "_BASE_: nowhere.yaml\nSOLVER: {BASE_LR: 1}\n\nSOLVER: {BASE_LR: 2}\n")
    assert "'SOLVER' is there twice, in line 2 and in line 4" in fault(both)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got nothing, expected sections of keys"),
        (b"# nothing\n", "got nothing, expected sections of keys"),
        (b"- a\n- b\n", "expected sections of keys"),
        (b"just words", "expected sections of keys"),
        ("OUTPUT_DIR: caf\xe9".encode("latin-1"), "save the file as UTF-8"),
        (b"MODEL: {", "not valid YAML"),
        (b"_BASE_: config.yaml\n", "leads back to a file being read"),
        (b"_BASE_: [other.yaml]\n", "leads back to a file being read"),
        (b"_BASE_: 5\n", "expected the name of a config file"),
        (b"_BASE_: https://example.org/a.yaml\n", "expected the name of a config file"),
        (b"MODEL:\n", "got nothing (null), expected keys below it"),
        (b"SOLVER: fast\n", "got 'fast', expected keys below it"),
        (b"MODEL: {WEIGHTS: }\n", "MODEL.WEIGHTS"),
        (b"5: 3\n", "unknown config key 5"),
        (b"MODEL: {DEVICE: {A: 1}}\n", "unknown config key MODEL.DEVICE.A"),
        (b"MODEL: {DEVICE: 2001-13-45}\n", "not valid YAML"),
    ],
)
def test_files_that_are_no_config(tmp_path, content, message):
    (tmp_path / "config.yaml").write_bytes(content)
    write(tmp_path, "_BASE_: config.yaml\n", "other.yaml")
    assert message in fault(tmp_path / "config.yaml")


def test_missing_files_are_named(tmp_path):
    assert "'nowhere.yaml', which does not exist" in fault("nowhere.yaml", kind=FileNotFoundError)
    assert "is a folder" in fault(tmp_path, kind=FileNotFoundError)
    message = fault(write(tmp_path, "_BASE_: b.yaml\n"), kind=FileNotFoundError)
    assert "config.yaml" in message and "b.yaml" in message


def test_bases_are_merged_in_order(tmp_path):
    write(tmp_path, "SOLVER: {BASE_LR: 1, MAX_ITER: 7}\nSEED: 1", "a.yaml")
    (tmp_path / "below").mkdir()
    write(tmp_path / "below", "_BASE_: ../a.yaml\nSOLVER: {BASE_LR: 2}\nSEED: 2", "b.yaml")
    cfg = load_config(write(tmp_path, "_BASE_: [a.yaml, below/b.yaml]\nSEED: 3"), ["SEED", "4"])
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.SEED) == (2.0, 7, 4)


def test_the_home_folder_in_every_path_key(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, "SEED: 5", "base.yaml")
    names = [
        "MODEL.WEIGHTS",
        "MODEL.CLIP_WEIGHTS",
        "MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED",
        "MODEL.SEM_SEG_HEAD.TRAIN_CLASS_JSON",
        "MODEL.SEM_SEG_HEAD.TEST_CLASS_JSON",
        "OUTPUT_DIR",
        "MODEL.CLIPER.DIFFUSION.MODEL",
        "MODEL.CLIPER.DIFFUSION.CACHE",
        "MODEL.CLIPER.FEATURES.WEIGHTS",
    ]
    write(tmp_path, "_BASE_: ~/base.yaml\nDATASETS: {FILES: [~/a.yaml, b.yaml]}")
    cfg = load_config("~/config.yaml", [part for name in names for part in (name, "~/x/y")])
    assert [value_of(cfg, name) for name in names] == [str(tmp_path / "x/y")] * len(names)
    assert cfg.DATASETS.FILES == [str(tmp_path / "a.yaml"), "b.yaml"] and cfg.SEED == 5


def test_paths_in_a_file_are_relative_to_it(tmp_path, monkeypatch):
    (tmp_path / "models/clip").mkdir(parents=True)
    (tmp_path / "models/clip/open_clip_config.json").write_text("{}")
    for name in ("models/w.pth", "d.yaml", "classes.json"):
        (tmp_path / name).touch()
    text = (
        "MODEL: {WEIGHTS: models/w.pth, SEM_SEG_HEAD: {CLIP_PRETRAINED: models/clip, "
        "TEST_CLASS_JSON: classes.json}}\n"
    )
    path = write(tmp_path, text + "DATASETS: {FILES: [d.yaml]}\nOUTPUT_DIR: out")
    cfg = load_config(path)
    assert cfg.MODEL.WEIGHTS == str(tmp_path / "models/w.pth") and cfg.DATASETS.FILES == [
        str(tmp_path / "d.yaml")
    ]
    assert cfg.MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED == str(tmp_path / "models/clip")
    assert cfg.MODEL.SEM_SEG_HEAD.TEST_CLASS_JSON == str(tmp_path / "classes.json")
    assert cfg.OUTPUT_DIR == "out"
    assert load_config(path, ["MODEL.WEIGHTS", "models/w.pth"]).MODEL.WEIGHTS == "models/w.pth"
    monkeypatch.chdir(tmp_path)
    assert load_config("config.yaml").MODEL.WEIGHTS == "models/w.pth"


def test_model_names_and_addresses_stay_as_they_are(tmp_path):
    (tmp_path / "ViT-B").mkdir()
    (tmp_path / "ViT-B/16").mkdir()  # a folder of results, not of a model
    (tmp_path / "none").touch()
    text = (
        "MODEL: {WEIGHTS: 'https://a.org/w.pth', CLIP_WEIGHTS: none, SEM_SEG_HEAD: "
        "{CLIP_PRETRAINED: ViT-B/16}}"
    )
    cfg = load_config(write(tmp_path, text))
    assert cfg.MODEL.WEIGHTS == "https://a.org/w.pth" and cfg.MODEL.CLIP_WEIGHTS == "none"
    assert cfg.MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED == "ViT-B/16"
