#!/usr/bin/env python
"""Train the quickstart's latent diffusion model on unlabelled tinyscenes images.

    python tools/pretrain_tiny_diffusion.py --output configs/quickstart/tiny_diffusion

First the autoencoder (96 pixels to a 48 x 48 latent), then an unconditional UNet on its latents. No
mask and no caption is used, and only phrases of the training split are shown. The result is a
folder in diffusers' own format (float16) and a JSON with the command, seed and time that made it. A
killed run resumes from ``<output>/state.pt``.
"""

import argparse
import copy
import itertools
import json
import math
import shutil
import tempfile
from functools import partial
from pathlib import Path

import hyperclip  # noqa: F401  (makes torchvision importable before diffusers asks for it)
import numpy as np
import torch
import torch.nn.functional as F
from detectron2.utils.logger import setup_logger
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from hyperclip.runtime.files import write_atomically
from hyperclip.runtime.program import run_program
from hyperclip.tinyscenes import pretraining
from hyperclip.tinyscenes.drawing import SCENE_SIZE, SPLITS, render_scene
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

CROP = SCENE_SIZE // 2
VAE = {
    "sample_size": SCENE_SIZE, "block_out_channels": (32, 64), "layers_per_block": 1,
    "latent_channels": 4, "norm_num_groups": 8, "mid_block_add_attention": False,
    "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
}  # fmt: skip
UNET = {
    "sample_size": SCENE_SIZE // 2, "block_out_channels": (64, 96), "layers_per_block": 1,
    "in_channels": 4, "out_channels": 4, "norm_num_groups": 16,
    "cross_attention_dim": 16, "attention_head_dim": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
}  # fmt: skip
SCHEDULER = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False,
}  # fmt: skip


def drawn_scenes(seed: int, scenes: int, every: int, step: int) -> Tensor:
    """A step's batch of scenes that the training split does not hold, in -1..1.

    These are whole scenes (S, 3, 96, 96) if ``step % every == 0``, else four crops of each
    (4 S, 3, 48, 48).
    """
    first = SPLITS["train"].images + (seed * 1_000_000 + step) * scenes
    images = [render_scene("train", first + i)[0] for i in range(scenes)]
    if step % every:
        rng = np.random.default_rng([seed, step])
        corners = rng.integers(SCENE_SIZE - CROP + 1, size=(4 * scenes, 2))
        scene = itertools.cycle(images)
        images = [next(scene)[y : y + CROP, x : x + CROP] for y, x in corners]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.autocast("cpu", torch.bfloat16)
def reconstruction_loss(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Mean absolute error of the decoded sample, and a little of its divergence from the normal."""
    posterior = vae.encode(images).latent_dist
    error = F.l1_loss(vae.decode(posterior.sample()).sample.float(), images)
    return error + 1e-4 * posterior.kl().mean() / images[0].numel()


@torch.autocast("cpu", torch.bfloat16)
def denoising_loss(
    unet: UNet2DConditionModel, scheduler: DDIMScheduler, vae: AutoencoderKL, images: Tensor
) -> Tensor:
    """Mean squared error of the noise predicted at random times, for a condition of zeros."""
    with torch.no_grad():
        latents = vae.encode(images).latent_dist.mean * vae.config.scaling_factor
    noise = torch.randn_like(latents)
    steps = torch.randint(scheduler.config.num_train_timesteps, (len(latents),))
    condition = latents.new_zeros(len(latents), 1, UNET["cross_attention_dim"])
    predicted = unet(scheduler.add_noise(latents, noise, steps), steps, condition).sample
    return F.mse_loss(predicted.float(), noise)


def pretraining_of(
    name: str, model: nn.Module, steps: int, args: argparse.Namespace, states: dict
) -> pretraining.Pretraining:
    """AdamW with warm-up and a cosine decay over ``steps``, and an average of the weights."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=1e-4)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.998))

    def rate(step: int) -> float:
        return args.lr * min(step / 100, 0.52 + 0.48 * math.cos(math.pi * step / steps))

    state = states.setdefault(name, {})
    return pretraining.Pretraining(name, model, optimizer, rate, args.seed, state, average)


@torch.no_grad()
def latent_scale(vae: AutoencoderKL, seed: int) -> float:
    """1 / standard deviation of the posterior means."""
    images = drawn_scenes(seed + 1, scenes=64, every=1, step=0)
    return 1 / vae.encode(images).latent_dist.mean.std().item()


def export(
    unet: UNet2DConditionModel, vae: AutoencoderKL, args: argparse.Namespace, states: dict
) -> None:
    """Replace ``<output>``'s model by one in diffusers' format, with ``pretraining.json``."""
    absent = dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
    parts = {"unet": copy.deepcopy(unet).half(), "vae": copy.deepcopy(vae).half()}
    pipeline = StableDiffusionPipeline(
        **parts, **absent, scheduler=DDIMScheduler(**SCHEDULER), requires_safety_checker=False
    )
    record = pretraining.record_of(args)
    for name, state in states.items():
        seconds = round(state["seconds"])
        record[name] = {"steps": state["step"], "seconds": seconds, "loss": state["loss"]}
    with tempfile.TemporaryDirectory(dir=args.output) as folder:
        pipeline.save_pretrained(folder)
        (Path(folder) / "pretraining.json").write_text(json.dumps(record, indent=2) + "\n")
        for entry in Path(folder).iterdir():
            target = args.output / entry.name
            if target.is_dir():
                shutil.rmtree(target)
            entry.rename(target)


def main() -> None:
    parser = pretraining.pretraining_parser(__doc__)
    parser.add_argument("--vae-steps", type=int, default=1000)
    length = "length of the UNet's cosine schedule, which --stop-after means"
    parser.add_argument("--unet-steps", type=int, default=4000, help=length)
    parser.add_argument("--scenes", type=int, default=4, help="scenes of a step")
    args = parser.parse_args()
    setup_logger(name="hyperclip")
    file = args.output / "state.pt"
    states = pretraining.saved_state(file)

    def save_states() -> None:
        write_atomically(file, lambda path: torch.save(states, path))

    torch.manual_seed(args.seed)
    first = pretraining_of("vae", AutoencoderKL(**VAE), args.vae_steps, args, states)
    crops = partial(drawn_scenes, args.seed, args.scenes, 10**9)
    loss_of = partial(reconstruction_loss, first.model)
    first.run(crops, loss_of, stop=args.vae_steps, save=save_states, every=250)
    vae = first.average.module.requires_grad_(False)
    vae.register_to_config(scaling_factor=latent_scale(vae, args.seed))

    torch.manual_seed(args.seed)
    unet = UNet2DConditionModel(**UNET)
    second = pretraining_of("unet", unet, args.unet_steps, args, states)

    def save() -> None:
        save_states()
        export(second.average.module, vae, args, states)

    crops = partial(drawn_scenes, args.seed, args.scenes, 8)
    loss_of = partial(denoising_loss, unet, DDIMScheduler(**SCHEDULER), vae)
    stop = min(args.unet_steps, args.stop_after)
    second.run(crops, loss_of, stop=stop, save=save, every=250)
    file.unlink()


if __name__ == "__main__":
    run_program(main)
