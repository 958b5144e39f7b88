"""What a diffusion model is given to see, and which of its layers are read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from cliper.diffusion import DiffusionAttention, DiffusionOptions, find_layers, run_until
from cliper.pretrained import load_diffusion
from cliper.refiner import build_refiner
from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention
from hyperclip.config.keys import load_config

from tests.helpers.defaults import default

TINY = "configs/quickstart/tiny_diffusion"
LAYERS = ("up_blocks.1.attentions.1", "up_blocks.1.attentions.0")


@pytest.fixture(scope="module")
def parts():
    return load_diffusion(TINY)


def build(parts, unet=None, prompt=True, **options):
    options = default(DiffusionOptions, **{"layers": LAYERS, **options})
    unet = unet or parts.unet
    parts = parts._replace(unet=unet, prompt=parts.prompt if prompt else None)
    return DiffusionAttention(parts, options)


@pytest.fixture
def image():
    return torch.randint(
        0, 256, (3, 70, 130), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )


def seen(model, image):
    """What the autoencoder and the UNet were given."""
    kept = []
    handles = [
        m.register_forward_pre_hook(lambda _, x: kept.append(x[0]))
        for m in (model.vae.encoder, model.unet)
    ]
    try:
        with torch.no_grad():
            (maps,) = model([image])
    finally:
        for handle in handles:
            handle.remove()
    square, noisy = kept
    return square, noisy, maps


@pytest.mark.parametrize("resize", ["nearest", "bilinear"])
def test_the_square_that_the_model_sees(parts, image, resize):
    """Of -1 to 1; nearest as released, or bilinear with anti-aliasing."""
    square, _, _ = seen(build(parts, resize=resize), image)
    options = (
        {"mode": "nearest"} if resize == "nearest" else {"mode": "bilinear", "antialias": True}
    )
    expected = 2 * F.interpolate(image[None].float() / 255, size=(96, 96), **options) - 1
    torch.testing.assert_close(square, expected)


@pytest.mark.parametrize("seed", [0, 3])
def test_noise_is_drawn_from_the_seed(parts, image, seed):
    torch.manual_seed(11)
    model = build(parts, seed=seed)
    _, noisy, _ = seen(model, image)
    noise = torch.randn(noisy.shape, generator=torch.Generator().manual_seed(seed))
    clean = build(parts, noise="none")
    _, without, _ = seen(clean, image)
    share = parts.scheduler.alphas_cumprod[int(model.time)]
    torch.testing.assert_close(noisy - without, (1 - share).sqrt() * noise, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        square = 2 * F.interpolate(image[None].float() / 255, size=(96, 96), mode="nearest") - 1
        latents = parts.vae.encode(square).latent_dist.mean * parts.vae.config.scaling_factor
    torch.testing.assert_close(without, share.sqrt() * latents, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("step", "steps"), [(45, 50), (0, 50), (3, 10)])
def test_which_time_step(parts, step, steps):
    model = build(parts, time_step=step, steps=steps)
    parts.scheduler.set_timesteps(steps)
    assert model.time == parts.scheduler.timesteps[step]


def test_a_time_step_out_of_range(parts):
    for wrong, expected in ((-1, "0 or more"), (10, "an index below 10")):
        with pytest.raises(ValueError, match=f"TIME_STEP: got {wrong}, expected {expected}"):
            build(parts, time_step=wrong, steps=10)
    build(parts, time_step=9, steps=10)


def test_models_that_are_higher_or_wider(parts, image):
    """Sizes are (height, width): of the image that is seen, of the latents and of the grid of
    tokens.
    """
    for sample, size in (((16, 24), (32, 48)), ((24, 16), (48, 32))):
        unet = UNet2DModel(
            sample_size=sample,
            in_channels=4,
            out_channels=4,
            block_out_channels=(16, 32),
            norm_num_groups=8,
            attention_head_dim=8,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
        ).eval()
        model = build(
            parts,
            unet,
            prompt=False,
            layers=("up_blocks.0.attentions.1", "up_blocks.0.attentions.0"),
        )
        square, noisy, maps = seen(model, image)
        factor = 2 ** (len(parts.vae.config.block_out_channels) - 1)
        assert square.shape[2:] == (factor * sample[0], factor * sample[1]) == tuple(model.size)
        assert noisy.shape[2:] == sample and maps.grid == (sample[0] // 2, sample[1] // 2)
        assert len(size) == 2 and all(q.shape[0] == maps.tokens for q in maps.queries)


def test_heads_of_the_layer_named_first_come_first(parts, image):
    forward, backward = (
        seen(build(parts, layers=names), image)[2] for names in (LAYERS, LAYERS[::-1])
    )
    half = forward.count // 2
    for kind in ("queries", "keys"):
        a, b = getattr(forward, kind), getattr(backward, kind)
        assert all(torch.equal(x, y) for x, y in zip(a, b[half:] + b[:half], strict=True))
    assert not torch.equal(forward.queries[0], forward.keys[0])
    layer = find_layers(parts.unet, LAYERS[:1])
    (attention,) = layer.values()
    assert forward.scales == [attention.scale] * forward.count and half == attention.heads


def test_queries_and_keys_are_the_layers_own(parts, image):
    """Heads are consecutive channels of the projections' outputs."""
    model, kept = build(parts, layers=LAYERS[:1]), {}
    (attention,) = find_layers(parts.unet, LAYERS[:1]).values()
    handles = [
        getattr(attention, n).register_forward_hook(lambda m, i, o, n=n: kept.__setitem__(n, o))
        for n in ("to_q", "to_k")
    ]
    with torch.no_grad():
        (maps,) = model([image])
    for handle in handles:
        handle.remove()
    for found, name in ((maps.queries, "to_q"), (maps.keys, "to_k")):
        for head, part in zip(found, kept[name][0].chunk(attention.heads, dim=-1), strict=True):
            torch.testing.assert_close(head, part)


class Blocks(torch.nn.Module):
    """Attention layers 1 and 10, and a cross-attention."""

    def __init__(self):
        super().__init__()
        self.attentions = torch.nn.ModuleDict(
            {
                "1": torch.nn.ModuleDict(
                    {
                        "attn1": Attention(8, heads=2),
                        "attn2": Attention(8, cross_attention_dim=4, heads=2),
                    }
                ),
                "10": torch.nn.ModuleDict({"attn1": Attention(8, heads=2)}),
            }
        )


def test_beginnings_of_names_end_at_a_dot():
    blocks = Blocks()
    assert list(find_layers(blocks, ["attentions.1"])) == ["attentions.1.attn1"]
    assert list(find_layers(blocks, ["attentions.10", "attentions.1.attn1"])) == [
        "attentions.10.attn1",
        "attentions.1.attn1",
    ]
    for wrong, count in (
        ("attentions", 2),
        ("attentions.1.attn2", 0),
        ("attentions.2", 0),
        ("tentions.1", 0),
    ):
        with pytest.raises(ValueError, match=f"'{wrong}' fits {count} self-attention layers"):
            find_layers(blocks, [wrong])
    with pytest.raises(ValueError, match="expected one or more different layers"):
        find_layers(blocks, [])


def test_a_run_is_stopped_once_all_outputs_are_there():
    layers = [torch.nn.Linear(1, 1) for _ in range(3)]
    x, went = torch.ones(1, 1), []

    def run():
        for k, layer in enumerate(layers):
            went.append(k)
            layer(x)

    first, second = run_until(run, [layers[1], layers[0]])
    assert went == [0, 1]
    torch.testing.assert_close(first, layers[1](x))
    torch.testing.assert_close(second, layers[0](x))


def test_images_of_a_batch_have_maps_of_their_own(parts):
    images = [
        torch.randint(
            0, 256, (3, 40 + k, 60), generator=torch.Generator().manual_seed(k), dtype=torch.uint8
        )
        for k in range(3)
    ]
    model = build(parts)
    together = model(images)
    for image, maps in zip(images, together, strict=True):
        (alone,) = model([image])
        for a, b in zip(maps.queries + maps.keys, alone.queries + alone.keys, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_the_refiner_that_a_config_describes(tmp_path):
    """Half precision is for GPUs; every value of the section reaches the model."""
    values = {"STEPS": 20, "TIME_STEP": 7, "NOISE": "none", "SEED": 3, "RESIZE": "bilinear"}
    keys = [str(x) for key, v in values.items() for x in (f"MODEL.CLIPER.DIFFUSION.{key}", v)]
    for cache in ("", str(tmp_path / "latents")):
        overrides = ["MODEL.DEVICE", "cpu", "MODEL.CLIPER.DIFFUSION.CACHE", cache, *keys]
        refiner = build_refiner(load_config("configs/quickstart/cliper.yaml", overrides))
        assert {p.dtype for p in refiner.parameters()} == {torch.float32}
        kept = refiner.attention.cache
        assert (kept and kept.folder) == (Path(cache) if cache else None)
        options = refiner.attention.options
        assert {key: getattr(options, key.lower()) for key in values} == values
