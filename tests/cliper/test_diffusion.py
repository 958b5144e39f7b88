"""Diffusion models in the true layouts: loading, map shapes, early stop, determinism, cache, and
what can be wrong.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from cliper.affinity import FuseOptions
from cliper.diffusion import DiffusionAttention, DiffusionOptions, find_layers, run_until
from cliper.pretrained import KNOWN, load_diffusion, locate
from cliper.refiner import DiffusionRefiner
from diffusers import UNet2DModel
from hyperclip.clip import TextEmbedder
from hyperclip.data import read_image
from hyperclip.vocabulary import Vocabulary, prompt_templates

from tests.conftest import SHARED
from tests.helpers.asking import ask
from tests.helpers.defaults import default, make_cliper
from tests.helpers.diffusion_folders import write_stable_diffusion

TINY = "configs/quickstart/tiny_diffusion"
TINY_LAYERS = ("up_blocks.1.attentions.1", "up_blocks.1.attentions.0")


@pytest.fixture(scope="module", params=["2.1", "1.5"])
def folder(request, fake_state, tmp_path_factory):
    """A Stable Diffusion pipeline folder with formula-made weights, and its version."""
    return write_stable_diffusion(
        fake_state, tmp_path_factory.mktemp("sd"), request.param
    ), request.param


def load(path, options=None, **arguments):
    parts = load_diffusion(str(path))
    return DiffusionAttention(
        parts,
        options or default(DiffusionOptions),
        **arguments,
    )


def test_end_to_end_on_a_real_photo(folder, clip_from_file):
    path, version = folder
    model, heads = load(path), {"2.1": 5, "1.5": 8}[version]
    photo = sorted((SHARED / "data" / "demo_photos").glob("*.jpg"))[0]
    image = torch.tensor(read_image(str(photo))).permute(2, 0, 1)
    (maps,) = model([image])
    assert (maps.count, maps.grid, maps.tokens) == (2 * heads, (64, 64), 4096)
    assert all(
        q.shape == k.shape == (4096, 40 // heads)
        for q, k in zip(maps.queries, maps.keys, strict=True)
    )
    assert model.vae.decoder is None and model.time == 101
    loaded = clip_from_file("ViT-B/16")
    whole = make_cliper(
        loaded.model,
        TextEmbedder(loaded.tokenizer, prompt_templates("single"), "first"),
        refiner=DiffusionRefiner(model, default(FuseOptions)),
        negatives=["background"],
    ).eval()
    result = ask(whole, image, Vocabulary.from_text("dog; truck; road; sky"))
    labels = result["sem_seg_labels"]
    assert labels.shape == image.shape[1:] and set(labels.unique().tolist()) <= {-1, 0, 1, 2, 3}
    assert torch.isfinite(result["sem_seg_confidence"]).all()


def test_the_empty_prompt_is_padded_as_each_version_does(folder):
    path, version = folder
    tokenizer = json.loads((path / "tokenizer" / "tokenizer_config.json").read_text())
    pad = tokenizer["pad_token"]
    assert (pad["content"] if isinstance(pad, dict) else pad) == (
        "!" if version == "2.1" else "<|endoftext|>"
    )
    prompt = load_diffusion(str(path)).prompt
    assert prompt.shape == (1, 77, {"2.1": 128, "1.5": 96}[version])


@pytest.mark.parametrize("part", ["unet", "vae", "scheduler", "text_encoder", "tokenizer"])
def test_a_folder_that_lacks_a_part(folder, part, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder[0], copy)
    shutil.rmtree(copy / part)
    with pytest.raises(FileNotFoundError, match=f"lacks {part}/"):
        load_diffusion(str(copy))


def test_broken_files(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder[0], copy)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be read"):
        load_diffusion(str(copy))
    (copy / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match="model_index.json is not JSON"):
        load_diffusion(str(copy))
    (copy / "model_index.json").unlink()
    with pytest.raises(FileNotFoundError, match="lacks model_index.json"):
        load_diffusion(str(copy))


def test_no_network_and_no_weights(monkeypatch):
    # fail at once instead of after retries
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        FileNotFoundError, match="set MODEL.CLIPER.DIFFUSION.MODEL to its path"
    ) as error:
        locate("sd-2.1")
    assert all(f"{name}@{revision}" in str(error.value) for name, revision in KNOWN["sd-2.1"])
    with pytest.raises(FileNotFoundError, match="owner/name@main"):
        locate("owner/name")
    with pytest.raises(FileNotFoundError, match=r"got 'sd-3', which is no folder here.*'sd-2.1'"):
        locate("sd-3")


def test_a_layer_that_does_not_exist():
    with pytest.raises(
        ValueError,
        match=r"'up_blocks.3.attentions.1' fits 0 self-attention layers.*up_blocks.0.attentions.1",
    ):
        load(TINY)
    with pytest.raises(ValueError, match="fits 2 self-attention layers"):
        load(TINY, default(DiffusionOptions, ("up_blocks.1",)))
    with pytest.raises(ValueError, match="expected one or more different layers"):
        load(TINY, default(DiffusionOptions, TINY_LAYERS[:1] * 2))
    with pytest.raises(ValueError, match="expected layers of the same resolution"):
        load(TINY, default(DiffusionOptions, (TINY_LAYERS[0], "mid_block")))([torch.zeros(3, 8, 8)])


def test_a_time_step_that_does_not_exist():
    with pytest.raises(ValueError, match="TIME_STEP: got 50, expected an index below 50"):
        load(TINY, default(DiffusionOptions, TINY_LAYERS, time_step=50))


def test_the_unet_stops_after_the_last_layer():
    model = load(TINY, default(DiffusionOptions, ("down_blocks.1.attentions.0",)))
    ran = []
    handle = model.unet.mid_block.register_forward_hook(lambda *_: ran.append(True))
    model([torch.zeros(3, 96, 96)])
    assert not ran
    handle.remove()
    assert not any(m._forward_hooks for m in model.modules())  # and leaves nothing behind


def test_hooks_go_away_when_the_model_fails():
    layer = torch.nn.Linear(2, 2)
    with pytest.raises(RuntimeError):
        run_until(lambda: layer(torch.zeros(1, 3)), [layer])
    assert not layer._forward_hooks


def test_noise_is_the_same_for_every_image_and_run():
    images = [
        torch.randint(0, 256, (3, h, w), dtype=torch.uint8)
        for h, w in ((96, 96), (50, 120), (96, 96))
    ]
    images.append(images[0])
    model = load(TINY, default(DiffusionOptions, TINY_LAYERS))
    torch.manual_seed(1)
    first = model(images)
    torch.manual_seed(2)
    second = model(images)
    for a, b in zip(first, second, strict=True):
        assert all(
            torch.equal(x, y) for x, y in zip(a.queries + a.keys, b.queries + b.keys, strict=True)
        )
    same = zip(first[0].queries, first[3].queries, strict=True)
    assert all(torch.allclose(x, y, atol=1e-4) for x, y in same)
    quiet = load(TINY, default(DiffusionOptions, TINY_LAYERS, noise="none"))([images[0]])[0]
    assert not torch.allclose(quiet.queries[0], first[0].queries[0], atol=1e-3)


def test_cached_latents_give_the_same_maps(tmp_path):
    images = [torch.randint(0, 256, (3, 96, 96), dtype=torch.uint8) for _ in range(2)]
    plain = load(TINY, default(DiffusionOptions, TINY_LAYERS))(images)
    cached = load(TINY, default(DiffusionOptions, TINY_LAYERS), cache=tmp_path)
    first = cached(images)
    assert len(list(tmp_path.glob("*.pt"))) == 2
    cached._encode = None  # the second time the autoencoder is not asked
    second = cached(images)
    for a, b, c in zip(plain, first, second, strict=True):
        assert torch.equal(a.queries[0], b.queries[0]) and torch.equal(b.queries[0], c.queries[0])


def test_an_unconditional_unet():
    """Any diffusers UNet: one without text, whose attention layers have no transformer around
    them.
    """
    unet = UNet2DModel(
        sample_size=48,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
    )
    names = ("up_blocks.0.attentions.1", "up_blocks.0.attentions.0")
    assert list(find_layers(unet, names)) == list(names)
    parts = load_diffusion(TINY)
    parts = parts._replace(unet=unet.eval(), prompt=None)
    model = DiffusionAttention(parts, default(DiffusionOptions, names))
    (maps,) = model([torch.randint(0, 256, (3, 40, 70), dtype=torch.uint8)])
    assert (maps.count, maps.grid) == (8, (24, 24))
    rows = torch.cat([tile.sum(1) for _, tile in maps.tiles(0)])
    np.testing.assert_allclose(rows, np.ones(24 * 24), atol=1e-5)


@pytest.mark.parametrize("arguments", [{"noise": "random"}, {"resize": "area"}])
def test_wrong_options(arguments):
    with pytest.raises(ValueError, match="expected one of"):
        default(DiffusionOptions, **arguments)
