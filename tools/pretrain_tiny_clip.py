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

import json
import math
from functools import partial
from pathlib import Path

import hyperclip  # noqa: F401  (makes torchvision importable before open_clip asks for it)
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from detectron2.utils.logger import setup_logger
from hyperclip.clip.vit_tower import embed_patches, residual_block, resize_positions, values
from hyperclip.normalization import CLIP_MEAN, CLIP_STD
from hyperclip.runtime.files import write_atomically, write_text
from hyperclip.runtime.program import run_program
from hyperclip.tinyscenes import pretraining
from hyperclip.tinyscenes.drawing import class_names, render_captioned
from open_clip.transformer import VisionTransformer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

VISION = {"layers": 6, "width": 128, "head_width": 32, "patch_size": 8}
TEXT = {"context_length": 32, "vocab_size": 49408, "heads": 2, "layers": 4}
MODEL_CFG = {
    world: {
        "embed_dim": 64,
        "vision_cfg": {"image_size": size, **VISION},
        "text_cfg": {"width": width, **TEXT},
    }
    for world, size, width in (("objects", 48, 64), ("scenes", 96, 16))
}
TEMPLATES = ("a {}", "a photo of a {}", "A photo of a {} in the scene", "an image of one {}")


def captioned(world: str, seed: int, size: int, step: int) -> tuple[Tensor, Tensor, int]:
    """A step's batch: images uint8 (B, S, S, 3), which of the 90 phrases each shows, bool (B, 90),
    and the index of the template.
    """
    pairs = [render_captioned(world, seed, step * size + i) for i in range(size)]
    shows = torch.tensor([[name in phrases for name in class_names()] for _, phrases in pairs])
    images = np.stack([image for image, _ in pairs])
    return torch.from_numpy(images), shows, step % len(TEMPLATES)


def to_input(images: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) to normalised float (B, 3, H, W)."""
    mean, std = torch.tensor(CLIP_MEAN), torch.tensor(CLIP_STD)
    return ((images.float() - mean) / std).permute(0, 3, 1, 2).contiguous()


def contrastive_loss(image: Tensor, text: Tensor, shows: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE; equal captions count as one, all captions of an image as its positives.

    Args:
        image, text: unit features of the images (B, D) and of the distinct captions (T, D).
        shows: which captions are each image's, bool (B, T), at least one in every row and column.
        scale: inverse temperature, scalar.
    """
    logits, positives = scale * image @ text.t(), shows.float()
    image_to_text = -(positives * F.log_softmax(logits, dim=1)).sum(1) / positives.sum(1)
    text_to_image = -(positives * F.log_softmax(logits, dim=0)).sum(0) / positives.sum(0)
    return 0.5 * (image_to_text.mean() + text_to_image.mean())


def encode_twice(visual: VisionTransformer, images: Tensor) -> tuple[Tensor, Tensor]:
    """Image embeddings (B, D), not normalised: CLIP's, and the mean over the last block's values.

    In CLIP, trained on far more images, the values of the last block's patches mean what the class
    token's output means, which dense methods rely on. A loss on the second embedding gives a tiny
    model that property, still without masks.
    """
    x = embed_patches(visual, images)
    *early, last = visual.transformer.resblocks
    for block in early:
        x = residual_block(block, x)
    mean_value = values(last.attn, last.ln_1(x[:, 1:]).mean(dim=1))
    output, pooled = residual_block(last, x)[:, 0], last.attn.out_proj(mean_value)
    return visual.ln_post(output) @ visual.proj, visual.ln_post(pooled) @ visual.proj


def training_loss(model: open_clip.CLIP, tokens: list[Tensor], share: float, batch: list) -> Tensor:
    """The loss of a batch of :func:`captioned`, to a ``share`` that on the last block's values."""
    images, shows, template = batch
    present = shows.any(dim=0)
    # On short sequences the plain attention kernel's backward is far faster than the fused one
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        embeddings = encode_twice(model.visual, to_input(images))
        text = model.encode_text(tokens[template][present])
    image, pooled, text = (F.normalize(x.float(), dim=-1) for x in (*embeddings, text))
    scale, shows = model.logit_scale.exp(), shows[:, present]
    loss, value_loss = (contrastive_loss(x, text, shows, scale) for x in (image, pooled))
    return (1 - share) * loss + share * value_loss


@torch.no_grad()
def zero_shot_accuracy(model: nn.Module, tokenizer, world: str, seed: int) -> float:
    """Share of held-out images that show the phrase ranked first among all 90, in percent."""
    model.eval()
    text = model.encode_text(tokenizer([TEMPLATES[2].format(n) for n in class_names()]))
    held_out, shows, _ = captioned(world, seed + 1_000_000, 1800, 0)
    best = (model.encode_image(to_input(held_out)) @ F.normalize(text, dim=-1).t()).argmax(-1)
    model.train()
    return 100.0 * shows[torch.arange(len(best)), best].double().mean().item()


def export(model: nn.Module, output: Path, world: str, record: dict) -> None:
    """Write the model folder in open_clip's format, float16, plus ``pretraining.json``."""
    mean, std = ([round(v / 255, 8) for v in values] for values in (CLIP_MEAN, CLIP_STD))
    config = {
        "model_cfg": MODEL_CFG[world],
        "preprocess_cfg": {"mean": mean, "std": std, "interpolation": "bicubic"},
    }
    weights = {k: v.detach().half().contiguous() for k, v in model.state_dict().items()}
    write_atomically(output / "open_clip_model.safetensors", lambda p: save_file(weights, str(p)))
    for name, content in (("open_clip_config.json", config), ("pretraining.json", record)):
        write_text(output / name, json.dumps(content, indent=2) + "\n")


def start_from(model: nn.Module, folder: Path) -> None:
    """Copy another model folder's image tower, its positions resized, and text tower if as wide."""
    state = {k: v.float() for k, v in load_file(folder / "open_clip_model.safetensors").items()}
    positions = "visual.positional_embedding"
    state[positions] = resize_positions(state[positions], model.visual.grid_size, mode="bilinear")
    weights = model.state_dict()
    same_text = all(state[k].shape == v.shape for k, v in weights.items())
    taken = [k for k in weights if same_text or k.startswith("visual.")]
    model.load_state_dict(weights | {k: state[k] for k in taken})


def main() -> None:
    parser = pretraining.pretraining_parser(__doc__)
    add = parser.add_argument
    add("--world", choices=sorted(MODEL_CFG), default="objects", help="what the images show")
    share = "share of the loss on the last block's values, 0..1"
    add("--value-loss", type=float, default=0.0, help=share)
    add("--init", type=Path, help="start from this model folder's towers")
    add("--steps", type=int, default=5000, help="length of the cosine schedule")
    add("--batch", type=int, default=256)
    args = parser.parse_args()
    setup_logger(name="hyperclip")
    file = args.output / "state.pt"
    state = pretraining.saved_state(file)
    torch.manual_seed(args.seed)
    model = open_clip.CLIP(**MODEL_CFG[args.world]).train()
    if args.init is not None:
        start_from(model, args.init)
    tokenizer = open_clip.SimpleTokenizer(context_length=TEXT["context_length"])
    tokens = [tokenizer([t.format(n) for n in class_names()]) for t in TEMPLATES]
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98))

    def rate(step: int) -> float:
        cosine = 1 + math.cos(math.pi * (step - 1) / args.steps)
        return args.lr * min(1.0, step / 200) * 0.5 * cosine

    def save() -> None:
        accuracy = round(zero_shot_accuracy(model, tokenizer, args.world, args.seed), 2)
        done, seconds = state["step"], round(state["seconds"])
        print(f"step {done} zero-shot accuracy among 90 phrases {accuracy:.1f} %", flush=True)
        write_atomically(file, lambda path: torch.save(state, path))
        record = {**pretraining.record_of(args), "init": str(args.init or ""), "steps_done": done}
        record |= {"seconds": seconds, "zero_shot_accuracy_percent": accuracy}
        export(model, args.output, args.world, record)

    pretraining.Pretraining("CLIP", model, optimizer, rate, args.seed, state).run(
        partial(captioned, args.world, args.seed, args.batch),
        partial(training_loss, model, tokens, args.value_loss),
        stop=min(args.stop_after, args.steps),
        save=save,
        every=500,
        after_step=lambda: model.logit_scale.data.clamp_(0, math.log(100)),
    )
    file.unlink(missing_ok=True)


if __name__ == "__main__":
    run_program(main)
