#!/usr/bin/env python
"""Train the quickstart's two-tower CLIPs on captioned images, image-level as CLIP is.

    python tools/pretrain_tiny_clip.py --output configs/quickstart/tiny_clip
    python tools/pretrain_tiny_clip.py --world scenes --init configs/quickstart/tiny_clip \\
        --value-loss 0.5 --batch 64 --lr 0.0005 --steps 2500 --output output/tiny_scene_clip
    python tools/pretrain_tiny_clip.py --world scenes --init output/tiny_scene_clip \\
        --value-loss 0.5 --batch 64 --lr 0.0005 --steps 1500 --seed 1 \\
        --output configs/quickstart/tiny_scene_clip

No mask is ever used. Images are rendered on the fly: single objects at 48 pixels (that model is
used at 96), or scenes at 96 pixels whose captions name what they show, one thing at a time. The
result is a folder in open_clip's own format (``local-dir:``): configuration, float16 safetensors
weights, and a JSON with the command, seed, time and zero-shot accuracy that made it. A killed run
resumes from ``<output>/state.pt``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

import hyperclip  # noqa: F401  (makes torchvision importable before open_clip asks for it)
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from hyperclip.clip.image_tower import embed_patches, residual_block, resize_positions
from hyperclip.clip.normalization import CLIP_MEAN, CLIP_STD
from hyperclip.runtime.files import write_atomically
from hyperclip.tinyscenes.drawing import class_names, render_captioned
from open_clip.transformer import VisionTransformer
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

VISION = {"layers": 6, "width": 128, "head_width": 32, "patch_size": 8}
TEXT = {"context_length": 32, "vocab_size": 49408, "heads": 2, "layers": 4}
MODEL_CFG = {
    "objects": {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 48, **VISION},
        "text_cfg": {"width": 64, **TEXT},
    },
    "scenes": {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 96, **VISION},
        "text_cfg": {"width": 16, **TEXT},
    },
}
TEMPLATES = ("a {}", "a photo of a {}", "A photo of a {} in the scene", "an image of one {}")


class Captioned(torch.utils.data.IterableDataset):
    """Endless stream of batches: images uint8 (B, S, S, 3) and which of the 90 phrases each shows,
    bool (B, 90).
    """

    def __init__(self, world: str, seed: int, batch: int, first_step: int) -> None:
        self.world, self.seed, self.batch, self.step = world, seed, batch, first_step

    def __iter__(self):
        while True:
            start = self.step * self.batch
            yield as_batch(
                [render_captioned(self.world, self.seed, start + i) for i in range(self.batch)]
            )
            self.step += 1


def as_batch(pairs: list[tuple[np.ndarray, list[str]]]) -> tuple[np.ndarray, np.ndarray]:
    """Images (B, S, S, 3) and phrases bool (B, 90) of rendered images."""
    names = class_names()
    return np.stack([image for image, _ in pairs]), np.array(
        [[n in phrases for n in names] for _, phrases in pairs]
    )


def to_input(images: torch.Tensor) -> torch.Tensor:
    """uint8 (B, H, W, 3) to normalised float (B, 3, H, W)."""
    mean, std = torch.tensor(CLIP_MEAN), torch.tensor(CLIP_STD)
    return ((images.float() - mean) / std).permute(0, 3, 1, 2).contiguous()


def contrastive_loss(
    image: torch.Tensor, text: torch.Tensor, shows: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Symmetric InfoNCE in which equal captions count as one and all captions of an image as its
    positives.

    Args:
        image, text: unit features of the images (B, D) and of the distinct captions (T, D).
        shows: which captions are each image's, bool (B, T), at least one in every row and column.
        scale: inverse temperature, scalar.
    """
    logits, positives = scale * image @ text.t(), shows.float()
    image_to_text = -(positives * F.log_softmax(logits, dim=1)).sum(1) / positives.sum(1)
    text_to_image = -(positives * F.log_softmax(logits, dim=0)).sum(0) / positives.sum(0)
    return 0.5 * (image_to_text.mean() + text_to_image.mean())


def encode_twice(
    visual: VisionTransformer, images: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Image embeddings (B, D), not normalised: CLIP's own, and one from the last block's values
    averaged over patches.

    In CLIP, trained on far more, the values of the last block's patches mean what the class token's
    output means, which is what dense methods live on. A loss on the second embedding gives a tiny
    model that property, still without masks.
    """
    x = embed_patches(visual, images)
    *early, last = visual.transformer.resblocks
    for block in early:
        x = residual_block(block, x)
    d = x.shape[-1]
    patches = last.ln_1(x[:, 1:]).mean(dim=1)
    values = F.linear(patches, last.attn.in_proj_weight[2 * d :], last.attn.in_proj_bias[2 * d :])
    own, pooled = residual_block(last, x)[:, 0], last.attn.out_proj(values)
    return visual.ln_post(own) @ visual.proj, visual.ln_post(pooled) @ visual.proj


@torch.no_grad()
def zero_shot_accuracy(
    model: torch.nn.Module, tokenizer, world: str, seed: int, images: int = 1800
) -> float:
    """Share of held-out images of which the phrase ranked first among all 90 is true, in
    percent.
    """
    model.eval()
    text = F.normalize(
        model.encode_text(tokenizer([TEMPLATES[2].format(n) for n in class_names()])), dim=-1
    )
    pictures, shows = as_batch(
        [render_captioned(world, seed + 1_000_000, i) for i in range(images)]
    )
    best = (model.encode_image(to_input(torch.from_numpy(pictures))) @ text.t()).argmax(-1)
    model.train()
    return 100.0 * float(shows[np.arange(images), best.numpy()].mean())


def export(model: torch.nn.Module, output: Path, world: str, record: dict) -> None:
    """Write the model folder in open_clip's format, float16, plus ``pretraining.json``."""
    mean, std = ([round(v / 255, 8) for v in values] for values in (CLIP_MEAN, CLIP_STD))
    config = {
        "model_cfg": MODEL_CFG[world],
        "preprocess_cfg": {"mean": mean, "std": std, "interpolation": "bicubic"},
    }
    weights = {k: v.detach().half().contiguous() for k, v in model.state_dict().items()}
    write_atomically(output / "open_clip_model.safetensors", lambda p: save_file(weights, str(p)))
    for name, content in (("open_clip_config.json", config), ("pretraining.json", record)):
        write_atomically(
            output / name, lambda p, c=content: p.write_text(json.dumps(c, indent=2) + "\n")
        )


def start_from(model: torch.nn.Module, folder: Path) -> None:
    """Take over another model folder's image tower, its position embeddings resized, and its text
    tower if it is as wide.
    """
    state = {k: v.float() for k, v in load_file(folder / "open_clip_model.safetensors").items()}
    positions = "visual.positional_embedding"
    state[positions] = resize_positions(state[positions], model.visual.grid_size, mode="bilinear")
    own = model.state_dict()
    same_text = all(state[k].shape == v.shape for k, v in own.items())
    model.load_state_dict(
        {k: state[k] if same_text or k.startswith("visual.") else v for k, v in own.items()}
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--world", choices=sorted(MODEL_CFG), default="objects", help="what the images show"
    )
    parser.add_argument(
        "--value-loss",
        type=float,
        default=0.0,
        help="share of the loss on the last block's values, 0..1",
    )
    parser.add_argument("--init", type=Path, help="start from this model folder's towers")
    parser.add_argument("--steps", type=int, default=5000, help="length of the cosine schedule")
    parser.add_argument("--stop-after", type=int, default=2500, help="steps that are run")
    for flag, kind, default in (("--batch", int, 256), ("--lr", float, 1e-3), ("--seed", int, 0)):
        parser.add_argument(flag, type=kind, default=default)
    args = parser.parse_args()
    state_file = args.output / "state.pt"

    torch.manual_seed(args.seed)
    config = MODEL_CFG[args.world]
    vision, text = (
        open_clip.CLIPVisionCfg(**config["vision_cfg"]),
        open_clip.CLIPTextCfg(**config["text_cfg"]),
    )
    model = open_clip.CLIP(config["embed_dim"], vision, text).train()
    if args.init is not None:
        start_from(model, args.init)
    tokenizer = open_clip.SimpleTokenizer(context_length=TEXT["context_length"])
    groups = [
        {
            "params": [p for p in model.parameters() if (p.ndim >= 2) == decay],
            "weight_decay": 0.05 * decay,
        }
        for decay in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98))
    first, spent = 0, 0.0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, spent = state["step"], state["seconds"]
    pictures = Captioned(args.world, args.seed, args.batch, first)
    stream = iter(torch.utils.data.DataLoader(pictures, batch_size=None, num_workers=1))
    tokens = {t: tokenizer([t.format(n) for n in class_names()]) for t in TEMPLATES}
    start = time.time() - spent
    last = min(args.stop_after, args.steps)
    for step in range(first, last):
        for group in optimizer.param_groups:
            group["lr"] = (
                args.lr
                * min(1.0, (step + 1) / 200)
                * 0.5
                * (1 + math.cos(math.pi * step / args.steps))
            )
        images, shows = next(stream)
        present, template = shows.any(dim=0), TEMPLATES[step % len(TEMPLATES)]
        # On short sequences the plain attention kernel's backward is far faster than the fused one.
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            embeddings = encode_twice(model.visual, to_input(images))
            text = model.encode_text(tokens[template][present])
        own, pooled, text = (F.normalize(x.float(), dim=-1) for x in (*embeddings, text))
        losses = [
            contrastive_loss(x, text, shows[:, present], model.logit_scale.exp())
            for x in (own, pooled)
        ]
        loss = (1 - args.value_loss) * losses[0] + args.value_loss * losses[1]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.logit_scale.data.clamp_(0, math.log(100))
        done = step + 1
        if done % 50 == 0:
            print(
                f"step {done} losses {[round(x.item(), 3) for x in losses]} seconds "
                f"{time.time() - start:.0f}",
                flush=True,
            )
        if done % 500 == 0 or done == last:
            accuracy = zero_shot_accuracy(model, tokenizer, args.world, args.seed)
            print(f"step {done} zero-shot accuracy among 90 phrases {accuracy:.1f} %", flush=True)
            seconds = time.time() - start
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": done,
                "seconds": seconds,
            }
            write_atomically(state_file, lambda p, s=state: torch.save(s, p))
            paths = {"output": str(args.output), "init": str(args.init or "")}
            record = {"command": " ".join(["python", *sys.argv]), **vars(args), **paths}
            record |= {
                "steps_done": done,
                "seconds": round(seconds),
                "zero_shot_accuracy_percent": round(accuracy, 2),
            }
            export(model, args.output, args.world, record)
    state_file.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
