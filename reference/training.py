"""HyperCLIP's training loss without short cuts: 77 tokens, hyperbolic maps, guidance and padding
written out, one-hot loss.

Shapes: B images, T classes, K of them kept, C embedding, h w grid.
"""

from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F
from hyperclip.adapters import RadiusAdjustment, adapters
from hyperclip.clip.text_tower import tokenize
from hyperclip.clip.vit_tower import embed_patches
from hyperclip.head.cost_head import cost_volume
from hyperclip.inference import resize

from reference import clip as towers
from reference import head as parts


@contextlib.contextmanager
def literal_adapters(model):
    """Evaluate the hyperbolic maps themselves inside this block."""
    own = [adapter for _, adapter in adapters(model) if isinstance(adapter, RadiusAdjustment)]
    before = [adapter.literal for adapter in own]
    try:
        for adapter in own:
            adapter.literal = True
        yield
    finally:
        for adapter, literal in zip(own, before, strict=True):
            adapter.literal = literal


def embed_text(model, vocabulary):
    """Unit embeddings (T, C) of one prompt a class, over the whole context of 77 tokens."""
    prompts, _ = model.text.prompts(vocabulary)
    tokens = tokenize(model.text.tokenizer, prompts, model.clip.context_length)
    return F.normalize(towers.encode_text(model.clip, tokens.to(model.device)), dim=-1)


def embed_image(model, image):
    """Patch embeddings (B, C, h, w) and the intermediate maps (B, D, h, w) of normalised images (B,
    3, H, W).
    """
    visual, grid = model.clip.visual, model.sem_seg_head.grid
    x, maps = embed_patches(visual, image), []

    def as_map(tokens):
        return tokens[:, 1:].transpose(1, 2).unflatten(2, grid)

    for i, block in enumerate(visual.transformer.resblocks[:-1]):
        x = block(x)
        if i in model.layers:
            maps.append(as_map(x))
    return as_map(
        visual.ln_post(towers.value_only_block(visual.transformer.resblocks[-1], x)) @ visual.proj
    ), maps


def head_logits(head, embeddings, intermediates, text, kept=None):
    """Logits (B, T, 4h, 4w) of B images: every class map has its own copy of the guidance, and all
    are handled together.

    With ``kept`` (B, K) only of those classes of each image: (B, K, 4h, 4w).
    """
    (h, w), images = head.grid, len(embeddings)
    costs, text_guidance = (
        cost_volume(embeddings, text),
        F.relu(head.text_projection(text)).expand(images, -1, -1),
    )
    if kept is not None:
        costs = costs.gather(1, kept[:, :, None, None].expand(-1, -1, h, w))
        text_guidance = text_guidance.gather(
            1, kept[:, :, None].expand(-1, -1, text_guidance.shape[-1])
        )
    classes = costs.shape[1]
    appearance = (
        F.relu(head.appearance_projection(embeddings))
        .permute(0, 2, 3, 1)
        .repeat_interleave(classes, 0)
    )
    maps = head.embed_costs(costs).flatten(0, 1)
    pooling = head.pooling_train if head.training else head.pooling_test
    for layer in head.layers:
        guidance = layer.spatial.guidance_norm(appearance)
        for block in layer.spatial.blocks:
            maps = parts.window_attention(block, maps, guidance)
        pooled = F.avg_pool2d(maps.permute(0, 3, 1, 2), pooling)
        grid, positions = pooled.shape[-2:], pooled[0, 0].numel()
        # (B positions, T, C)
        tokens = pooled.flatten(2).unflatten(0, (images, classes)).permute(0, 3, 1, 2).flatten(0, 1)
        tokens = parts.class_attention(
            layer.classes, tokens, text_guidance.repeat_interleave(positions, 0)
        )
        across = (
            tokens.unflatten(0, (images, positions))
            .permute(0, 2, 3, 1)
            .flatten(0, 1)
            .unflatten(2, grid)
        )
        if tuple(pooling) != (1, 1):
            across = F.interpolate(across, size=(h, w), mode="bilinear", align_corners=True)
        maps = maps + across.permute(0, 2, 3, 1)
    x = maps.unflatten(0, (images, classes)).permute(0, 1, 4, 2, 3)
    projected = zip(head.decoder_projections, head.upsample, intermediates, strict=True)
    for stage, (project, up, features) in zip(head.decoder.stages, projected, strict=True):
        x = parts.decoder_stage(stage, x, F.relu(project(up(features))))
    return head.decoder.classifier(x.flatten(0, 1)).unflatten(0, (images, classes))[:, :, 0]


def loss(model, image, target):
    """The loss of one image (3, H, W), RGB 0..255, and its target (H, W)."""
    with literal_adapters(model):
        embeddings, maps = embed_image(
            model, resize(model.normalise(image)[None], model.resolution)
        )
        logits = head_logits(
            model.sem_seg_head, embeddings, maps, embed_text(model, model.train_vocabulary)
        )
    return parts.one_hot_bce(logits, target[None].to(model.device), model.ignore)


def step(model, optimizer, image, target):
    """One optimiser step; returns the loss."""
    optimizer.zero_grad()
    value = loss(model, image, target)
    value.backward()
    optimizer.step()
    return value.detach()


def random_image(model, size=384, seed=0):
    """An image (3, size, size) and a target (size, size) of blocks of classes, a sixth of it
    ignored.
    """
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, size, size), generator=generator, dtype=torch.uint8)
    classes = torch.randint(0, len(model.train_vocabulary), (8, 8), generator=generator)
    target = classes.repeat_interleave(size // 8, 0).repeat_interleave(size // 8, 1)
    target[: size // 6] = model.ignore
    return image, target
