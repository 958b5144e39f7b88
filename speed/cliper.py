"""An image through CLIPer with a diffusion model of Stable Diffusion 2.1's true shape, against the
networks' passes alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from cliper.affinity import FuseOptions
from cliper.diffusion import DiffusionAttention, DiffusionOptions
from cliper.fusion import read_early_layers
from cliper.preprocess import resize_for_clip, target_size
from cliper.pretrained import LoadedDiffusion
from cliper.refiner import DiffusionRefiner, GridRefinement
from detectron2.modeling import build_model
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from hyperclip.clip.vit_tower import embed_patches, resize_positions
from hyperclip.config.key_rules import options_of
from hyperclip.config.keys import load_config
from hyperclip.segmenter import Question
from hyperclip.vocabulary import builtin
from torch import Tensor, nn

from reference import cliper as literal
from speed.measuring import Row, Settings, Stopwatch, compare

THRESHOLD = 0.2
TRUE = {
    "channels": (320, 640, 1280, 1280),
    "heads": [5, 10, 20, 20],
    "text": 1024,
    "vae": (128, 256, 512, 512),
    "side": 64,
    "groups": 32,
}
TINY = {
    "channels": (32, 32, 64, 64),
    "heads": [1, 1, 2, 2],
    "text": 32,
    "vae": (32, 32, 32, 32),
    "side": 16,
    "groups": 8,
}
DOWN, UP = (
    ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
)


class ObviousRefiner(nn.Module):
    """The whole UNet, its maps kept, and the chain of their products."""

    def __init__(self, attention: DiffusionAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, images: Sequence[Tensor]) -> list[GridRefinement]:
        own: Any = self.attention
        latents = own.add_noise(own.latents(own._square(images[0])))
        outputs: list[Tensor] = []
        projections = [m for layer in own.layers.values() for m in (layer.to_q, layer.to_k)]
        handles = [
            m.register_forward_hook(lambda _, __, output: outputs.append(output))
            for m in projections
        ]
        own.unet(latents, own.time, encoder_hidden_states=own.prompt.to(latents))
        for handle in handles:
            handle.remove()
        # the order of the pass
        order = [name for name, _ in own.unet.named_modules() if name in own.layers]
        heads = [own.layers[name].heads for name in order]
        split = [
            x[0].float().unflatten(-1, (heads[i // 2], -1)).transpose(0, 1)
            for i, x in enumerate(outputs)
        ]
        pairs = dict(zip(order, zip(split[0::2], split[1::2], strict=True), strict=True))
        queries, keys = ([head for name in own.layers for head in pairs[name][i]] for i in (0, 1))
        scales = [layer.scale for layer in own.layers.values() for _ in range(layer.heads)]
        maps = literal.attention_maps(queries, keys, scales)
        grid = (latents.shape[-2], latents.shape[-1])
        return [GridRefinement(grid, lambda scores: literal.refine(maps, scores, THRESHOLD))]


@torch.no_grad()
def pipeline(settings: Settings) -> list[Row]:
    """Rows for 336 pixels and the 20 classes of VOC with refinement, and for the passes in it
    against the libraries' own; on a GPU with ViT-L/14, too.

    "floor_ratio" of the whole is over CLIP's blocks, and the VAE's encoder and the UNet inside of
    it.
    """
    dtype = torch.float16 if settings.half else torch.float32
    attention = build_diffusion(TINY if settings.smoke else TRUE).to(settings.device, dtype)
    configs = ["cliper/universal_vitb16"]
    if settings.device.type == "cuda":
        configs.append("cliper/universal_vitl14")
    if settings.smoke:
        configs = ["quickstart/cliper_fusion"]
    rows = [row for config in configs for row in refined(config, attention, settings)]
    own: Any = attention
    generator = torch.Generator().manual_seed(0)
    square = torch.rand(1, 3, *attention.size, generator=generator).to(settings.device, dtype)
    noisy = attention.add_noise(own.latents(2 * square[0] - 1))
    whole_unet, up_to_maps = (
        partial(own.unet, noisy, own.time, own.prompt.to(dtype)),
        partial(own.queries_and_keys, noisy),
    )
    plain = replace(settings, precision=torch.float32)
    return rows + compare(
        "cliper",
        "UNet up to the maps, against all of it",
        whole_unet,
        up_to_maps,
        plain,
        alike=False,
    )


def refined(config: str, attention: DiffusionAttention, settings: Settings) -> list[Row]:
    """Rows of one backbone."""
    weights = [] if settings.smoke else ["MODEL.CLIP_WEIGHTS", "none"]
    keys = ["MODEL.DEVICE", str(settings.device), "MODEL.CLIPER.REFINER.NAME", "none", *weights]
    keys += ["MODEL.CLIPER.HALF", str(settings.half)]
    half = replace(settings, precision=torch.float16 if settings.half else torch.float32)
    settings = replace(settings, precision=torch.float32)  # CLIPer chooses it itself
    model: Any = build_model(load_config(f"configs/{config}.yaml", keys)).eval()
    refiner = DiffusionRefiner(attention, FuseOptions("SFSA", 1, THRESHOLD))
    question = Question(builtin("cliper_voc"))
    side = (64, 80) if settings.smoke else (375, 500)
    image = torch.randint(
        0, 256, (3, *side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )

    def with_refiner(chosen: Any) -> Tensor:
        model.refiner = chosen
        return model([{"image": image, "question": question}])[0]["sem_seg_confidence"]

    size = target_size(*side, model.size, model.patch, model.max_size)
    visual = model.clip.visual
    pixels = (
        resize_for_clip(image, size)[None].to(settings.device).float() - model.pixel_mean
    ) / model.pixel_std

    def blocks(count: int) -> Tensor:
        grid = (size[0] // model.patch, size[1] // model.patch)
        x = embed_patches(
            visual, pixels, resize_positions(visual.positional_embedding, grid, mode="bilinear")
        )
        for block in visual.transformer.resblocks[:count]:
            x = block(x)
        return x

    passes, count = Stopwatch(settings.device), len(visual.transformer.resblocks)
    own: Any = attention
    own.queries_and_keys, own.latents = (
        passes.around(own.queries_and_keys),
        passes.around(own.latents),
    )
    large = ", ViT-L/14" if model.backbone == "ViT-L/14" else ""
    case = f"{len(builtin('cliper_voc'))} classes, {model.size} px, refined{large}"
    obvious, ours = (
        partial(with_refiner, chosen) for chosen in (ObviousRefiner(attention), refiner)
    )
    floor = half.mixed(partial(blocks, count))
    rows = compare("cliper", case, obvious, ours, settings, floor, passes)
    del own.queries_and_keys, own.latents
    return rows + compare(
        "cliper",
        f"CLIP's first {count - 1} blocks, maps kept{large}",
        partial(blocks, count - 1),
        lambda: read_early_layers(visual, pixels, model.fusion)[0][-1],
        half,
    )


def build_diffusion(shape: dict[str, Any]) -> DiffusionAttention:
    """Maps from a diffusion model with random weights."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=shape["side"],
        block_out_channels=shape["channels"],
        attention_head_dim=shape["heads"],
        layers_per_block=2,
        cross_attention_dim=shape["text"],
        norm_num_groups=shape["groups"],
        use_linear_projection=True,
        down_block_types=DOWN,
        up_block_types=UP,
    )
    vae = AutoencoderKL(
        block_out_channels=shape["vae"],
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=shape["groups"],
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    prompt = torch.randn(1, 77, shape["text"])
    scheduler = PNDMScheduler(skip_prk_steps=True)
    parts = LoadedDiffusion(vae.eval(), unet.eval(), scheduler, prompt, "random weights")
    node = load_config("configs/cliper/Base-CLIPer.yaml").MODEL.CLIPER.DIFFUSION
    return DiffusionAttention(parts, options_of(DiffusionOptions, node))
