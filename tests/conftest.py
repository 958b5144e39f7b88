"""Fixtures: the golden data of the published implementations, and models with formula-made weights."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
from pathlib import Path

import cliper  # noqa: F401  (registers CLIPer and its keys)
import hyperclip.meta_arch  # noqa: F401  (registers the meta-architecture)
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from hyperclip.clip.loading import LoadedClip, load_clip
from hyperclip.config import load_config
from hyperclip.engine.checkpointing import load_strictly

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def _in_repository_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="session")
def golden():
    """Loader of the recorded arrays: ``golden("h3_text.npz")`` gives a dict of arrays, of JSON its content."""
    folder = SHARED / "golden"
    if not folder.is_dir():
        pytest.skip("the recorded outputs of the published implementations (../shared/golden) are not here")

    def load(name: str):
        if name.endswith(".json"):
            return json.loads((folder / name).read_text())
        return dict(np.load(folder / name))

    return load


@pytest.fixture(scope="session")
def fake_state(golden):
    """The generator of formula-made weights and pictures that the golden data was recorded with."""
    spec = importlib.util.spec_from_file_location("fake_state", SHARED / "golden" / "fake_state.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def published_state(golden, fake_state):
    """State dicts in the published formats: ``published_state("hyperclip_vitb16")``."""

    def make(model: str) -> dict[str, torch.Tensor]:
        keys = golden("reference_keys.json")["models"][model]["keys"]
        return {
            name: torch.zeros(shape) if fake_state.kind_of(name, shape) == "keep"
            else torch.from_numpy(fake_state.fill(name, shape))
            for name, (shape, *_) in keys.items()
        }

    return make


@pytest.fixture(scope="session")
def clip_from_file(fake_state, tmp_path_factory):
    """CLIP with formula-made weights, read from a file in OpenAI's format: ``clip_from_file("ViT-B/16")``."""

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
    """A model of a shipped config with formula-made weights in evaluation mode; extra arguments are overrides."""

    def build(config: str, model: str, *overrides: str) -> torch.nn.Module:
        cfg = load_config(ROOT / "configs" / config, ["MODEL.DEVICE", "cpu", "MODEL.CLIP_WEIGHTS", "none", *overrides])
        built = build_model(cfg)
        load_strictly(built, published_state(model), model)
        return built.eval()

    return build


@pytest.fixture(scope="session")
def hyperclip_b(published_model):
    """HyperCLIP ViT-B/16 on the fast path. Tests that change it change it back."""
    return published_model("vitb_384_hyperbolic.yaml", "hyperclip_vitb16")
