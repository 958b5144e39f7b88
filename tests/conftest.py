"""Fixtures: the golden data of the published implementations, and models with formula-made
weights.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path

import cliper  # noqa: F401  (registers CLIPer and its keys)
import hyperclip.data.detectron2_catalog  # noqa: F401  (registers the datasets)
import hyperclip.meta_arch  # noqa: F401  (registers the meta-architecture)
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from hyperclip.checkpoints.checkpointer import load_strictly
from hyperclip.clip.loading import LoadedClip, load_clip
from hyperclip.config.keys import load_config
from hyperclip.data import DATASETS

from tests.golden import fake_state as formula_made

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
RECORDED = ROOT / "tests" / "golden" / "arrays"


LONG = (
    "test_resume.py",
    "test_app.py",
    "test_hub.py",
    "test_app_requests.py",
    "test_user_errors.py",
    "test_h4_head.py",
    "test_curves.py",
    "test_speed.py",
)
"""Files that take minutes: they begin first, so that two workers end at about the same time."""


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(autouse=True)
def _in_repository_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(autouse=True, scope="module")
def _registered_as_before():
    """Datasets that a file's tests have registered are gone after it."""
    before = {*DATASETS, *DatasetCatalog.list()}
    yield
    for name in {*DATASETS, *DatasetCatalog.list()} - before:
        DATASETS.pop(name, None)
        DatasetCatalog.pop(name, None)
        MetadataCatalog.pop(name, None)


@pytest.fixture(scope="session")
def golden():
    """Loader of the recorded arrays: ``golden("h3_text.npz")`` gives a dict of arrays, of JSON its
    content.

    A part of the recordings ships with the repository; the others are looked for in
    ../shared/golden.
    """

    def load(name: str):
        path = next((p for p in (RECORDED / name, SHARED / "golden" / name) if p.is_file()), None)
        if path is None:
            pytest.skip(f"{name}: neither in tests/golden/arrays nor in ../shared/golden")
        return json.loads(path.read_text()) if path.suffix == ".json" else dict(np.load(path))

    return load


@pytest.fixture(scope="session")
def fake_state():
    """The generator of formula-made weights and images that the golden data was recorded with."""
    return formula_made


@pytest.fixture(scope="session")
def published_state(golden, fake_state):
    """State dicts in the published formats: ``published_state("hyperclip_vitb16")``."""

    def make(model: str) -> dict[str, torch.Tensor]:
        keys = golden("reference_keys.json")["models"][model]["keys"]
        return {
            name: torch.zeros(shape)
            if fake_state.kind_of(name, shape) == "keep"
            else torch.from_numpy(fake_state.fill(name, shape))
            for name, (shape, *_) in keys.items()
        }

    return make


@pytest.fixture(scope="session")
def clip_from_file(fake_state, tmp_path_factory):
    """CLIP with formula-made weights, read from a file in OpenAI's format:
    ``clip_from_file("ViT-B/16")``.
    """

    @functools.cache
    def load(name: str) -> LoadedClip:
        path = tmp_path_factory.mktemp("clip") / "model.pt"
        torch.save(fake_state.clip_state(name), path)
        loaded = load_clip(name, str(path))
        path.unlink()
        return loaded

    return load


@pytest.fixture(scope="session")
def published_model(published_state):
    """A model of a shipped config with formula-made weights in evaluation mode; extra arguments are
    overrides.
    """

    def build(config: str, model: str, *overrides: str) -> torch.nn.Module:
        cfg = load_config(
            ROOT / "configs" / config,
            ["MODEL.DEVICE", "cpu", "MODEL.CLIP_WEIGHTS", "none", *overrides],
        )
        built = build_model(cfg)
        load_strictly(built, published_state(model), model)
        return built.eval()

    return build


@pytest.fixture(scope="session")
def hyperclip_b(published_model):
    """HyperCLIP ViT-B/16 on the fast path. Tests that change it change it back."""
    return published_model("vitb_384_hyperbolic.yaml", "hyperclip_vitb16")
