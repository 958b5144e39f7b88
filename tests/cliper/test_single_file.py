"""Stable Diffusion in one file gives what the same model in diffusers' folders gives; other files
are refused.
"""

from __future__ import annotations

import shutil

import pytest
import torch
from cliper.pretrained import load_diffusion
from cliper.single_file_checkpoint import _VAE, FIRST, SECOND
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from tests.helpers.diffusion_folders import write_stable_diffusion
from tests.helpers.single_file import original_state


@pytest.fixture(scope="module", params=["2.1", "1.5"])
def model(request, fake_state, tmp_path_factory):
    """A folder in diffusers' format with formula-made weights, and the original state dict of the
    same weights.
    """
    folder = write_stable_diffusion(fake_state, tmp_path_factory.mktemp("sd"), request.param)
    parts = (
        UNet2DConditionModel.from_pretrained(folder / "unet"),
        AutoencoderKL.from_pretrained(folder / "vae"),
        CLIPTextModel.from_pretrained(folder / "text_encoder"),
    )
    return folder, {k: v.contiguous() for k, v in original_state(*parts, request.param).items()}


def beside(model, tmp_path):
    """A folder with the configurations of the model, without any weights."""
    shutil.copytree(
        model[0],
        tmp_path / "file",
        ignore=shutil.ignore_patterns("*.safetensors", "tokenizer", "raw"),
    )
    return tmp_path / "file"


@pytest.mark.parametrize("kind", ["model.safetensors", "model.ckpt"])
def test_a_single_file_equals_the_folder(model, tmp_path, kind):
    folder, state = model
    file = beside(model, tmp_path) / kind
    if kind.endswith("ckpt"):
        torch.save({"state_dict": state, "epoch": 3, "global_step": 7}, file)
    else:
        save_file(state, file)
    got, want = load_diffusion(str(file)), load_diffusion(str(folder))
    for part in ("unet", "vae"):
        ours, theirs = (getattr(loaded, part).state_dict() for loaded in (got, want))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
        assert not any(p.is_meta for p in getattr(got, part).parameters())
    torch.testing.assert_close(got.prompt, want.prompt)
    assert got.scheduler.config == want.scheduler.config and got.source == str(file)
    half = load_diffusion(str(file), dtype=torch.float16)
    assert next(half.unet.parameters()).dtype == torch.float16


@pytest.mark.parametrize(
    "gone",
    [
        "output_blocks.11.1.proj_out.weight",
        "first_stage_model.quant_conv.bias",
        "time_embed.0.weight",
        "cond_stage_model",
    ],
)
def test_a_file_that_lacks_weights(model, tmp_path, gone):
    file = beside(model, tmp_path) / "model.safetensors"
    save_file({k: v for k, v in model[1].items() if gone not in k}, file)
    with pytest.raises(
        ValueError,
        match=r"keys missing from the file|time_embed.0.weight' is missing|no Stable Diffusion 1 or 2 in a single file",  # noqa: E501
    ) as error:
        load_diffusion(str(file))
    assert "\n" not in str(error.value)


def test_a_file_of_another_architecture(model, tmp_path):
    save_file(
        model[1], tmp_path / "narrow.safetensors"
    )  # nothing beside it: its heads and groups are not known
    with pytest.raises(
        ValueError,
        match="does not fill the UNet2DConditionModel.*unet/config.json and vae/config.json beside",
    ):
        load_diffusion(str(tmp_path / "narrow.safetensors"))
    save_file({"conditioner.embedders.0.weight": torch.zeros(1)}, tmp_path / "xl.safetensors")
    with pytest.raises(ValueError, match="no Stable Diffusion 1 or 2 in a single file"):
        load_diffusion(str(tmp_path / "xl.safetensors"))
    (tmp_path / "cut.safetensors").write_bytes(
        (tmp_path / "narrow.safetensors").read_bytes()[:5000]
    )
    with pytest.raises(ValueError, match="cut short"):
        load_diffusion(str(tmp_path / "cut.safetensors"))


@pytest.mark.parametrize(
    ("version", "unet", "text"),
    [(FIRST, 859_520_964, 123_060_480), (SECOND, 865_910_724, 340_387_840)],
)
def test_the_built_in_architectures_have_the_published_sizes(version, unet, text):
    with torch.device("meta"):
        parts = (
            UNet2DConditionModel(**version.unet),
            CLIPTextModel(CLIPTextConfig(**version.text)),
            AutoencoderKL(**_VAE),
        )
    assert [sum(p.numel() for p in part.parameters()) for part in parts] == [unet, text, 83_653_863]
