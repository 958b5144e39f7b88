"""Which keys a config may have, and what is said about the others."""

from __future__ import annotations

import cliper  # noqa: F401  (registers its keys)
import pytest
from hyperclip.config import load_config
from hyperclip.config.key_rules import LEGACY

CONFIG = "configs/quickstart/hyperclip.yaml"


def written(folder, text):
    path = folder / "mine.yaml"
    path.write_text(f"VERSION: 2\n{text}\n")
    return path


@pytest.mark.parametrize("key", LEGACY)
def test_keys_of_the_released_configs_that_mean_nothing_name_what_replaces_them(key):
    for full in (key, f"{key}.DEPTH"):
        with pytest.raises(ValueError) as error:
            load_config(CONFIG, [full, "1"])
        assert full in str(error.value) and LEGACY[key] in str(error.value)


def test_legacy_keys_in_files(tmp_path):
    with pytest.raises(
        ValueError, match=r"MODEL.SWIN.EMBED_DIM .*the vision backbone is CLIP itself"
    ):
        load_config(written(tmp_path, "MODEL: {SWIN: {EMBED_DIM: 96}}"))


def test_a_key_that_only_begins_like_a_legacy_one_is_known():
    cfg = load_config(
        CONFIG, ["MODEL.PROMPT_ENSEMBLE_TYPE", "imagenet"]
    )  # MODEL.PROMPT_ENSEMBLE is a legacy key
    assert cfg.MODEL.PROMPT_ENSEMBLE_TYPE == "imagenet"


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("SOLVER.BASE_LRR", "SOLVER.BASE_LR"),
        ("MODEL.CLIPER.SIZES", "MODEL.CLIPER.SIZE"),
        ("TEST.SLIDING_WINDOWS", "TEST.SLIDING_WINDOW"),
    ],
)
def test_unknown_keys_name_the_nearest(tmp_path, key, near):
    with pytest.raises(ValueError, match=key) as error:
        load_config(CONFIG, [key, "1"])
    assert f"'{near}'" in str(error.value)
    *sections, name = key.split(".")
    text = (
        "".join(f"{'  ' * k}{section}:\n" for k, section in enumerate(sections))
        + f"{'  ' * len(sections)}{name}: 1"
    )
    with pytest.raises(ValueError, match=key):
        load_config(written(tmp_path, text))


def test_files_and_overrides_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="which does not exist"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="not valid YAML"):
        load_config(written(tmp_path, "MODEL: ["))
    with pytest.raises(ValueError, match="expected pairs KEY VALUE"):
        load_config(CONFIG, ["SOLVER.BASE_LR", "0.1", "SEED"])
    with pytest.raises(ValueError, match="BASE_LR"):
        load_config(CONFIG, ["SOLVER.BASE_LR", "fast"])


def test_files_override_defaults_and_the_command_line_overrides_files(tmp_path):
    path = written(tmp_path, "SOLVER: {BASE_LR: 0.5, MAX_ITER: 7}")
    cfg = load_config(path, ["SOLVER.MAX_ITER", "9"])
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH) == (0.5, 9, 16)
