"""Diffusion models with formula-made weights, saved in the true Stable Diffusion layouts."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import hyperclip  # noqa: F401  (makes torchvision importable before diffusers asks for it)
import open_clip
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from open_clip.tokenizer import bytes_to_unicode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

STABLE_DIFFUSION = {  # what the published models' configurations say, their widths divided by 8
    "2.1": {
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
        "cross_attention_dim": 128,
    },
    "1.5": {"attention_head_dim": 8, "use_linear_projection": False, "cross_attention_dim": 96},
}
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}
ATTENTION_DOWN = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
ATTENTION_UP = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3


def fill_module(fake_state, module, prefix, sharpen=False):
    """Overwrite a module's parameters by the formula of their names."""
    state = module.state_dict()
    for name in state:
        tensor = torch.from_numpy(
            fake_state.fill(prefix + name.removeprefix("text_model."), state[name].shape)
        )
        if sharpen and re.search(r"attn1\.to_[qk]\.weight$", name):
            tensor = tensor * 2.5  # else the maps are nearly uniform
        if state[name].is_floating_point():
            state[name] = tensor
    module.load_state_dict(state)
    return module.eval()


def write_tokenizer(folder: Path, pad: str) -> CLIPTokenizer:
    """CLIP's tokenizer in transformers' format, from open_clip's copy of the merges."""
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    merges = gzip.open(source).read().decode("utf-8").split("\n")[1 : 49152 - 256 - 2 + 1]
    letters = list(bytes_to_unicode().values())
    tokens = [*letters, *(x + "</w>" for x in letters), *("".join(m.split()) for m in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), pad_token=pad, model_max_length=77
    )


def write_stable_diffusion(fake_state, folder: Path, version: str) -> Path:
    """Save a narrow Stable Diffusion 2.1-base or 1.5 as a whole pipeline."""
    width = STABLE_DIFFUSION[version]["cross_attention_dim"]
    unet = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(40, 80, 160, 160),
        norm_num_groups=8,
        layers_per_block=2,
        down_block_types=ATTENTION_DOWN,
        up_block_types=ATTENTION_UP,
        **STABLE_DIFFUSION[version],
    )
    vae = AutoencoderKL(
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=512,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=4,
            bos_token_id=49406,
            eos_token_id=49407,
        )
    )
    pipeline = StableDiffusionPipeline(
        unet=fill_module(fake_state, unet, "unet.", sharpen=True),
        vae=fill_module(fake_state, vae, "vae."),
        text_encoder=fill_module(fake_state, text, "text_encoder."),
        tokenizer=write_tokenizer(folder / "raw", "!" if version == "2.1" else "<|endoftext|>"),
        scheduler=PNDMScheduler(**SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder
