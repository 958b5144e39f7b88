"""C6: latents, the noisy latent and the self-attention maps of a small Stable Diffusion."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cliper.diffusion import DiffusionAttention, DiffusionOptions
from cliper.pretrained import LoadedDiffusion
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from tests.helpers.defaults import default
from tests.helpers.diffusion_folders import fill_module

STEPS = {45: 101, 10: 801}


@pytest.fixture(scope="module")
def parts(golden, fake_state):
    """Autoencoder, UNet, scheduler and the embedding of the empty prompt."""
    configs = golden("c6_configs.json")
    unet = fill_module(fake_state, UNet2DConditionModel(**configs["unet"]), "unet.", sharpen=True)
    vae = fill_module(fake_state, AutoencoderKL(**configs["vae"]), "vae.")
    text = fill_module(
        fake_state, CLIPTextModel(CLIPTextConfig(**configs["text_encoder"])), "text_encoder."
    )
    settings = {k: v for k, v in configs["scheduler"].items() if k != "class"}
    tokens = torch.tensor([[49406, 49407] + [0] * 75])
    with torch.no_grad():
        return LoadedDiffusion(vae, unet, PNDMScheduler(**settings), text(tokens)[0], "golden")


@pytest.fixture(scope="module")
def noise(fake_state):
    return torch.from_numpy(10 * (fake_state.fill("c6.noise", (1, 4, 64, 64), "norm") - 1))


@pytest.fixture(scope="module")
def picture(fake_state):
    return torch.from_numpy(fake_state.image(480, 640, 0)).permute(2, 0, 1)


@pytest.mark.parametrize("step", STEPS)
def test_maps(golden, parts, noise, picture, step):
    recorded = golden("c6_attention.npz")
    model = DiffusionAttention(parts, default(DiffusionOptions, time_step=step))
    assert model.time == STEPS[step] and model.size == (512, 512)
    np.testing.assert_allclose(parts[3][:, ::4], recorded["prompt_embeds"], atol=2e-5)
    with torch.no_grad():
        square = model._square(picture)
        np.testing.assert_allclose(
            square[None, :, ::16, ::16], recorded["vae_in_every16"], atol=1e-6
        )
        latents = model.latents(square)
        np.testing.assert_allclose(latents[:, :, ::4, ::4], recorded["latent_every4"], atol=2e-5)
        noisy = model.add_noise(latents, noise)
        np.testing.assert_allclose(
            noisy[:, :, ::4, ::4], recorded[f"unet_in_step{step}_every4"], atol=2e-5
        )
        pairs = model.queries_and_keys(noisy)
        whole = parts[1](noisy, model.time, encoder_hidden_states=parts[3]).sample
    np.testing.assert_allclose(
        whole[:, :, ::4, ::4], recorded[f"unet_out_step{step}_every4"], atol=2e-4
    )
    for layer, name, (q, k) in zip((-4, -6), model.layers, pairs, strict=True):
        maps = (q[0] * model.layers[name].scale @ k[0].mT).softmax(dim=-1)
        assert maps.shape == (2, 4096, 4096)
        np.testing.assert_allclose(
            maps[:, ::128, ::64], recorded[f"attn_layer{layer}_step{step}"], atol=1e-4
        )
        largest = maps.amax(dim=1)[:, ::64]
        np.testing.assert_allclose(
            largest, recorded[f"attn_layer{layer}_step{step}_colmax_every64"], atol=1e-4
        )


def test_the_streamed_maps_are_those(parts, picture):
    model = DiffusionAttention(parts, default(DiffusionOptions))
    (maps,) = model([picture])
    assert (maps.count, maps.grid) == (4, (64, 64))
    with torch.no_grad():
        pairs = model.queries_and_keys(model.add_noise(model.latents(model._square(picture))))
    names = list(model.layers)
    assert names[0].startswith("up_blocks.3.attentions.1") and names[1].startswith(
        "up_blocks.3.attentions.0"
    )
    whole = torch.cat([(q[0] * 8**-0.5 @ k[0].mT).softmax(dim=-1) for q, k in pairs])
    for index in range(4):
        rows = torch.cat([tile for _, tile in maps.tiles(index)])
        torch.testing.assert_close(rows, whole[index], atol=1e-6, rtol=1e-4)
