#!/usr/bin/env python
"""Train the quickstart's latent diffusion model on unlabelled tinyscenes images.

    python tools/pretrain_tiny_diffusion.py --output configs/quickstart/tiny_diffusion

First the autoencoder (96 pixels to a 48 x 48 latent), then an unconditional UNet on its latents. No
mask and no caption is used, and only phrases of the training split are shown. The result is a
folder in diffusers' own format (float16) and a JSON with the command, seed and time that made it. A
killed run resumes from ``<output>/state.pt``.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import hyperclip  # noqa: F401  (makes torchvision importable before diffusers asks for it)
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from hyperclip.runtime.files import write_atomically
from hyperclip.tinyscenes.drawing import SCENE_SIZE, SPLITS, render_scene
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

CROP = SCENE_SIZE // 2
VAE = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "sample_size": SCENE_SIZE,
    "mid_block_add_attention": False,
}
UNET = {
    "sample_size": SCENE_SIZE // 2,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (64, 96),
    "layers_per_block": 1,
    "norm_num_groups": 16,
    "cross_attention_dim": 16,
    "attention_head_dim": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
}
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}


class Crops(torch.utils.data.IterableDataset):
    """Endless batches of scenes that the training split does not hold, in -1..1.

    Each step gives the whole scenes (S, 3, 96, 96) if ``step % every == 0``, else four crops of
    each (4 S, 3, 48, 48).
    """

    def __init__(self, seed: int, first_step: int, every: int, scenes: int) -> None:
        self.seed, self.step, self.every, self.scenes = seed, first_step, every, scenes

    def __iter__(self):
        while True:
            first = SPLITS["train"].images + (self.seed * 1_000_000 + self.step) * self.scenes
            pictures = [render_scene("train", first + i)[0] for i in range(self.scenes)]
            if self.step % self.every:
                random = np.random.default_rng([self.seed, self.step])
                corners = random.integers(SCENE_SIZE - CROP + 1, size=(4 * self.scenes, 2))
                pictures = [
                    pictures[i % self.scenes][y : y + CROP, x : x + CROP]
                    for i, (y, x) in enumerate(corners)
                ]
            yield torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
            self.step += 1


def reconstruction_loss(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Mean absolute error of the decoded sample plus a light pull of the posterior towards the unit
    normal.
    """
    posterior = vae.encode(images).latent_dist
    return (
        F.l1_loss(vae.decode(posterior.sample()).sample.float(), images)
        + 1e-4 * posterior.kl().mean() / images[0].numel()
    )


def denoising_loss(unet: UNet2DConditionModel, scheduler: DDIMScheduler, latents: Tensor) -> Tensor:
    """Mean squared error of the predicted noise at uniform time steps; the condition is one token
    of zeros.
    """
    noise = torch.randn_like(latents)
    steps = torch.randint(scheduler.config.num_train_timesteps, (len(latents),))
    condition = latents.new_zeros(len(latents), 1, UNET["cross_attention_dim"])
    return F.mse_loss(
        unet(scheduler.add_noise(latents, noise, steps), steps, condition).sample.float(), noise
    )


class Phase:
    """One network's training: AdamW, warm-up, cosine decay, an exponential moving average of the
    weights.

    Args:
        name: key of its state. model: what trains. steps: length of the schedule. stop: steps that
            are run.
        every: see :class:`Crops`.
        state: everything that a killed run needs; updated in place.
    """

    def __init__(
        self, name: str, model: nn.Module, steps: int, stop: int, every: int, state: dict
    ) -> None:
        self.name, self.model, self.steps, self.stop, self.every = (
            name,
            model,
            steps,
            min(steps, stop),
            every,
        )
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.998))
        self.mine = state.setdefault(name, {"step": 0, "seconds": 0.0, "loss": 0.0})
        if self.mine["step"]:
            model.load_state_dict(self.mine["model"])
            self.average.load_state_dict(self.mine["average"])

    def run(
        self,
        loss_of: Callable[[Tensor], Tensor],
        args: argparse.Namespace,
        save: Callable[[], None],
    ) -> None:
        """Train with ``loss_of(images)``; ``save()`` is called every 250 steps and at the end."""
        model, mine = self.model, self.mine
        optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=1e-4)
        if mine["step"]:
            optimizer.load_state_dict(mine["optimizer"])
        torch.manual_seed(args.seed + mine["step"])
        start, running = time.time() - mine["seconds"], mine["loss"]
        pictures = Crops(args.seed, mine["step"], self.every, args.scenes)
        stream = iter(torch.utils.data.DataLoader(pictures, batch_size=None, num_workers=1))
        for done in range(mine["step"] + 1, self.stop + 1):
            for group in optimizer.param_groups:
                group["lr"] = args.lr * min(
                    done / 100, 0.52 + 0.48 * math.cos(math.pi * done / self.steps)
                )
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(next(stream))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            self.average.update_parameters(model)
            running += (loss.item() - running) / min(done, 100)
            if done % 50 == 0:
                print(
                    f"{self.name} step {done} loss {running:.4f} seconds {time.time() - start:.0f}",
                    flush=True,
                )
            if done % 250 == 0 or done == self.stop:
                mine |= {
                    "step": done,
                    "seconds": time.time() - start,
                    "loss": running,
                    "model": model.state_dict(),
                }
                mine |= {"average": self.average.state_dict(), "optimizer": optimizer.state_dict()}
                save()


@torch.no_grad()
def latent_scale(vae: AutoencoderKL, seed: int) -> float:
    """1 / standard deviation of the posterior means."""
    images = next(iter(Crops(seed + 1, 0, every=1, scenes=64)))
    return 1 / vae.encode(images).latent_dist.mean.std().item()


def export(
    unet: UNet2DConditionModel, vae: AutoencoderKL, args: argparse.Namespace, state: dict
) -> None:
    """Replace ``<output>``'s model by one in diffusers' format, float16, with
    ``pretraining.json``.
    """
    copies = [type(part).from_config(part.config) for part in (unet, vae)]
    for copy, part in zip(copies, (unet, vae), strict=True):
        copy.half().load_state_dict(part.state_dict())
    # from_config falls back to the default
    copies[1].register_to_config(scaling_factor=vae.config.scaling_factor)
    pipeline = StableDiffusionPipeline(
        unet=copies[0],
        vae=copies[1],
        scheduler=DDIMScheduler(**SCHEDULER),
        text_encoder=None,
        tokenizer=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    record = {"command": " ".join(["python", *sys.argv]), **vars(args), "output": str(args.output)}
    for name in ("vae", "unet"):
        record[name] = {
            "steps": state[name]["step"],
            "seconds": round(state[name]["seconds"]),
            "loss": state[name]["loss"],
        }
    with tempfile.TemporaryDirectory(dir=args.output) as folder:
        pipeline.save_pretrained(folder)
        (Path(folder) / "pretraining.json").write_text(json.dumps(record, indent=2) + "\n")
        for entry in Path(folder).iterdir():
            target = args.output / entry.name
            if target.is_dir():
                shutil.rmtree(target)
            entry.rename(target)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--vae-steps", type=int, default=1000)
    parser.add_argument(
        "--unet-steps", type=int, default=4000, help="length of the UNet's cosine schedule"
    )
    parser.add_argument("--stop-after", type=int, default=2500, help="steps of it that are run")
    parser.add_argument("--scenes", type=int, default=4, help="scenes of a step")
    for flag, kind, default in (("--lr", float, 1e-3), ("--seed", int, 0)):
        parser.add_argument(flag, type=kind, default=default)
    args = parser.parse_args()
    file = args.output / "state.pt"
    state = torch.load(file, weights_only=True) if file.exists() else {}

    def save_state() -> None:
        write_atomically(file, lambda path: torch.save(state, path))

    torch.manual_seed(args.seed)
    first = Phase("vae", AutoencoderKL(**VAE), args.vae_steps, args.vae_steps, 10**9, state)
    first.run(lambda images: reconstruction_loss(first.model, images), args, save_state)
    vae = first.average.module.requires_grad_(False)
    vae.register_to_config(scaling_factor=latent_scale(vae, args.seed))

    torch.manual_seed(args.seed)
    second = Phase("unet", UNet2DConditionModel(**UNET), args.unet_steps, args.stop_after, 8, state)
    scheduler = DDIMScheduler(**SCHEDULER)

    def loss_of(images: Tensor) -> Tensor:
        with torch.no_grad():
            latents = vae.encode(images).latent_dist.mean * vae.config.scaling_factor
        return denoising_loss(second.model, scheduler, latents)

    def save() -> None:
        save_state()
        export(second.average.module, vae, args, state)

    second.run(loss_of, args, save)
    file.unlink()


if __name__ == "__main__":
    main()
