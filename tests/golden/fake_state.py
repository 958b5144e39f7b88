"""Deterministic stand-ins for pretrained weights and photographs (numpy and torch only).

Every tensor is a pure function of its *name*, its shape and an optional salt, so two programs that
    use the same parameter names hold the same numbers without sharing a checkpoint. fill(name,
    shape, kind=None, salt="")  one tensor (float32 numpy array) clip_state("ViT-B/16")
    a whole OpenAI-format CLIP state dict (torch tensors) fill_state(sd, prefix="", salt="")
    same-shaped values for any state dict, by its own names image(h, w, seed)                      a
    uint8 (h, w, 3) test image made with integer arithmetic only The stream of a tensor is numpy's
    PCG64 seeded with crc32(salt + name); standard_normal in float64, then scaled and cast to
    float32.  A leading "sem_seg_head.predictor.clip_model." is cut off the name first, so a
    segmentation model and a bare CLIP checkpoint agree on their CLIP tensors.
"""

import re
import zlib

import numpy as np
import torch

KEEP = (
    "attn_mask",
    "relative_position_index",
    "position_ids",
    "num_batches_tracked",
    "running_mean",
    "running_var",
    "input_resolution",
    "context_length",
    "vocab_size",
)  # never filled: they stay as the model built them
ARCH = {  # name: patch, image side, vision width, vision layers, text width, embedding width
    "ViT-B/16": (16, 224, 768, 12, 512, 512),
    "ViT-L/14": (14, 224, 1024, 24, 768, 768),
    "ViT-L/14@336px": (14, 336, 1024, 24, 768, 768),
}


def kind_of(name, shape):
    if name.endswith(KEEP):
        return "keep"
    if name.endswith("logit_scale"):
        return "logit"
    if re.search(r"adapter_attn_[qkv]\.weights$", name):
        return "eye"  # (blocks, b, b)
    if re.search(
        r"embedding|padding_tokens|padding_guidance|prompt_tokens", name
    ) and not re.search(r"time_embedding|add_embedding", name):
        return "embed"
    if name.endswith(("visual.proj", "text_projection")):
        return "rmatrix"  # used as x @ W
    if re.search(r"(^|\.)(upsample[12]|decoder[12]\.up)\.weight$", name):
        return "convt"  # ConvTranspose2d (in, out, k, k)
    if len(shape) <= 1:
        return "bias" if name.endswith("bias") else "norm"
    return "matrix"  # Linear (out, in), Conv2d (out, in, kh, kw)


def fill(name, shape, kind=None, salt=""):
    name = re.sub(r"^sem_seg_head\.predictor\.clip_model\.", "", name)
    kind, shape = kind or kind_of(name, shape), tuple(shape)
    if kind == "logit":
        return np.full(shape, 4.6052, np.float32)
    n = np.random.Generator(np.random.PCG64(zlib.crc32((salt + name).encode()))).standard_normal(
        shape
    )
    if kind == "norm":
        v = 1 + 0.1 * n
    elif kind == "bias":
        v = 0.02 * n
    elif kind == "embed":
        v = 0.05 * n
    elif kind == "eye":
        v = np.eye(shape[-1]) + 0.05 * n
    elif kind in ("rmatrix", "convt"):
        v = n * shape[0] ** -0.5
    elif kind == "matrix":
        v = n * float(np.prod(shape[1:])) ** -0.5
    else:
        raise ValueError(kind)
    return v.astype(np.float32)


def fill_state(sd, prefix="", salt=""):
    def keep(k, v):
        return kind_of(k, v.shape) == "keep" or not v.is_floating_point()

    return {
        k: v if keep(k, v) else torch.from_numpy(fill(prefix + k, v.shape, None, salt))
        for k, v in sd.items()
    }


def clip_state(arch="ViT-B/16", salt="", ctx=77, vocab=49408):
    p, side, vw, vl, tw, e = ARCH[arch]
    sh = {
        "positional_embedding": (ctx, tw),
        "text_projection": (tw, e),
        "logit_scale": (),
        "visual.class_embedding": (vw,),
        "visual.positional_embedding": ((side // p) ** 2 + 1, vw),
        "visual.proj": (vw, e),
        "visual.conv1.weight": (vw, 3, p, p),
        "token_embedding.weight": (vocab, tw),
    }
    for ln, w in (("visual.ln_pre", vw), ("visual.ln_post", vw), ("ln_final", tw)):
        sh[ln + ".weight"] = sh[ln + ".bias"] = (w,)
    for pre, w, n in (("visual.transformer", vw, vl), ("transformer", tw, 12)):
        for b in (f"{pre}.resblocks.{i}." for i in range(n)):
            for m, (o, i) in {
                "attn.in_proj_": (3 * w, w),
                "attn.out_proj.": (w, w),
                "mlp.c_fc.": (4 * w, w),
                "mlp.c_proj.": (w, 4 * w),
            }.items():
                sh[b + m + "weight"], sh[b + m + "bias"] = (o, i), (o,)
            for m in ("ln_1.", "ln_2."):
                sh[b + m + "weight"] = sh[b + m + "bias"] = (w,)
    sd = {k: torch.from_numpy(fill(k, s, None, salt)) for k, s in sh.items()}
    return {
        **sd,
        **{
            k: torch.tensor(v)
            for k, v in (("input_resolution", side), ("context_length", ctx), ("vocab_size", vocab))
        },
    }


def image(h, w, seed=0):
    y, x, c = np.ogrid[:h, :w, :3]

    def tri(t, p):
        return np.abs(t % (2 * p) - p) * 255 // p  # triangle wave, 0..255

    a = (
        tri(3 * x + 2 * y + 61 * c + 17 * seed, 160 + 32 * c)
        + tri(2 * x - 5 * y + 97 * c + 29 * seed, 211 + 9 * seed)
    ) // 2
    a = np.broadcast_to(a, (h, w, 3)).copy()
    for k in range(6):  # flat and textured rectangles
        y0, x0 = (
            (k * 131 + seed * 71 + 20) % (h * 3 // 4),
            (k * 197 + seed * 53 + 30) % (w * 3 // 4),
        )
        box = np.s_[y0 : y0 + h // 5 + 8 * k, x0 : x0 + w // 6 + 12 * k]
        a[box] = (
            a[box] // 4 + 60 * k + 40 * c[0, 0] + ((x ^ y) % 16 * 6)[box[0], box[1]] * (k % 2)
        ) % 256
    return a.astype(np.uint8)
