"""Diffusion folders that cannot serve are refused when the model is built, in one line; variants of
the format load.
"""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from cliper.affinity import FuseOptions
from cliper.diffusion import DiffusionAttention, DiffusionOptions
from cliper.pretrained import load_diffusion
from cliper.refiner import DiffusionRefiner
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from tests.helpers.defaults import default
from tests.helpers.diffusion_folders import write_tokenizer

TINY = "configs/quickstart/tiny_diffusion"
LAYERS = ("up_blocks.1.attentions.1", "up_blocks.1.attentions.0")
UNET = "unet/diffusion_pytorch_model.safetensors"


def build(path, **options):
    parts = load_diffusion(str(path))
    options = default(DiffusionOptions, **{"layers": LAYERS, **options})
    return DiffusionAttention(parts, options)


def refused(path, message, error=ValueError, **options):
    with pytest.raises(error, match=message) as raised:
        build(path, **options)
    assert "\n" not in str(raised.value)


@pytest.fixture
def tiny(tmp_path):
    """A copy of the quickstart's model."""
    shutil.copytree(TINY, tmp_path / "model")
    return tmp_path / "model"


def configure(file, **changes):
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | changes))


def write_unet(folder, **changes):
    """Replace the UNet by one with other settings, its weights saved with it."""
    config = {
        k: v
        for k, v in json.loads((folder / "unet/config.json").read_text()).items()
        if not k.startswith("_")
    }
    UNet2DConditionModel(**config | changes).save_pretrained(folder / "unet")


def edit_weights(file, edit):
    state = load_file(file)
    edit(state)
    save_file(state, file)


@pytest.mark.parametrize(
    ("channels", "kind"),
    [(9, "9 channels, as for inpainting"), (5, "5 channels, as for depth"), (7, "7 channels,")],
)
def test_a_unet_that_takes_other_channels(tiny, channels, kind):
    write_unet(tiny, in_channels=channels)
    refused(tiny, f"its UNet takes {kind}.* expected the 4 of its autoencoder's latents")


@pytest.mark.parametrize(
    "settings",
    [
        {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 64,
        },
        {"class_embed_type": "timestep"},
        {"num_class_embeds": 10},
        {"encoder_hid_dim_type": "text_image_proj", "encoder_hid_dim": 16},
    ],
)
def test_a_unet_that_needs_more_than_text(tiny, settings):
    write_unet(tiny, **settings)
    refused(
        tiny,
        rf"its UNet needs more than text \({next(iter(settings))}|its UNet needs more than text",
    )


@pytest.mark.parametrize("size", [None, 0, -64, "64", True, [64], 48.0])
def test_a_sample_size_that_is_none(tiny, size):
    configure(tiny / "unet/config.json", sample_size=size)
    refused(tiny, r"unet/config.json has sample_size .*expected the side of the latents")


def test_weights_that_do_not_fill_the_unet(tiny):
    edit_weights(tiny / UNET, lambda s: s.pop("conv_out.weight"))
    refused(tiny, r"do not fit its config.json: 1 missing \['conv_out.weight'\]")


@pytest.mark.parametrize("part", ["unet", "vae"])
@pytest.mark.parametrize("accelerate", [True, False])
def test_weights_that_are_missing_many_or_of_another_shape(tiny, part, accelerate, monkeypatch):
    monkeypatch.setattr(
        "diffusers.models.modeling_utils.is_accelerate_available", lambda: accelerate
    )
    file = tiny / part / "diffusion_pytorch_model.safetensors"
    saved = file.read_bytes()
    gone = "mid_block.attentions.0" if part == "unet" else "encoder.mid_block.resnets.0"
    edit_weights(file, lambda s: [s.pop(name) for name in list(s) if name.startswith(gone)])
    refused(tiny, r"do not fit its config.json: \d+ missing|cannot be read")
    file.write_bytes(saved)
    edit_weights(file, lambda s: s.update(extra=torch.zeros(2)))
    refused(tiny, r"1 unexpected \['extra'\]")
    file.write_bytes(saved)
    name = "conv_in.weight" if part == "unet" else "encoder.conv_in.weight"
    edit_weights(file, lambda s: s.update({name: torch.zeros(3, 3)}))
    refused(tiny, "cannot be read|mismatched")
    file.unlink()
    refused(tiny, "has no weights, expected diffusion_pytorch_model.safetensors", FileNotFoundError)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("unet/config.json", "{", "config.json is not JSON"),
        ("vae/config.json", "[]", "holds a list, expected a JSON object"),
        ("unet/config.json", "{}", "is a None, expected UNet2DConditionModel or UNet2DModel"),
        ("vae/config.json", '{"_class_name": "VQModel"}', "is a VQModel, expected AutoencoderKL"),
        (
            "unet/config.json",
            '{"_class_name": "SD3Transformer2DModel"}',
            "is a SD3Transformer2DModel, expected",
        ),
        (
            "scheduler/scheduler_config.json",
            '{"_class_name": "Missing"}',
            "names the scheduler 'Missing'",
        ),
        (
            "scheduler/scheduler_config.json",
            '{"_class_name": "FlowMatchEulerDiscreteScheduler"}',
            "expected one of diffusers that has",
        ),
        ("model_index.json", "[1]", "holds a list"),
    ],
)
def test_configurations_of_another_kind(tiny, file, text, message):
    (tiny / file).write_text(text)
    refused(tiny, message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "STEPS: got 0, expected 1 or more"),
        ({"steps": -5}, "STEPS: got -5"),
        ({"steps": 1001}, "STEPS: got 1001, expected 1 to 1000"),
        ({"time_step": -1}, "TIME_STEP: got -1, expected 0 or more"),
        ({"time_step": 50}, "TIME_STEP: got 50, expected an index below 50"),
        ({"steps": 3, "time_step": 3}, "TIME_STEP: got 3, expected an index below 3"),
        ({"seed": -1}, "SEED: got -1"),
        ({"layers": (LAYERS[0], "mid_block")}, "expected layers of the same resolution"),
        ({"layers": ()}, "expected one or more different layers"),
    ],
)
def test_options_are_checked_when_the_model_is_built(options, message):
    refused(TINY, message, **options)


def test_a_map_that_does_not_exist_is_refused_when_the_refiner_is_built():
    attention = build(TINY)
    DiffusionRefiner(attention, default(FuseOptions, "selection", attention.count - 1))
    for index, expected in ((attention.count, f"0 to {attention.count - 1}"), (-1, "0 or more")):
        with pytest.raises(ValueError, match=f"REFINER.INDEX: got {index}, expected {expected}"):
            DiffusionRefiner(attention, default(FuseOptions, "selection", index))


def test_an_autoencoder_of_another_number_of_channels(tiny):
    config = {
        k: v
        for k, v in json.loads((tiny / "vae/config.json").read_text()).items()
        if not k.startswith("_")
    }
    AutoencoderKL(**config | {"latent_channels": 16}).save_pretrained(tiny / "vae")
    refused(tiny, "its UNet takes 4 channels, expected the 16 of its autoencoder's latents")


def write_text(folder, width, **options):
    index = json.loads((folder / "model_index.json").read_text())
    index |= {
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=49406,
        eos_token_id=49407,
    )
    CLIPTextModel(config).save_pretrained(folder / "text_encoder", **options)
    write_tokenizer(folder / "raw", "!").save_pretrained(folder / "tokenizer")


def test_text_encoders(tiny):
    write_text(tiny, 16, variant="fp16")
    assert (tiny / "text_encoder/model.fp16.safetensors").is_file() and build(
        tiny
    ).prompt.shape == (1, 77, 16)
    edit_weights(
        tiny / "text_encoder/model.fp16.safetensors",
        lambda s: s.pop(next(k for k in s if "final_layer_norm.weight" in k)),
    )
    refused(
        tiny,
        r"weights in .*text_encoder' do not fit its config.json: 1 missing .*final_layer_norm.weight",  # noqa: E501
    )
    configure(tiny / "text_encoder/config.json", model_type="t5")
    refused(tiny, "of the type 't5', expected CLIP's")
    shutil.rmtree(tiny / "text_encoder")
    write_text(tiny, 32)
    refused(tiny, "its text encoder gives 32 channels, expected 16, its UNet's")
    (tiny / "tokenizer/tokenizer.json").unlink(missing_ok=True)
    for file in (tiny / "tokenizer").iterdir():
        file.write_text("{")
    refused(tiny, "tokenizer' cannot be read")


@pytest.mark.parametrize("suffix", ["fp16.safetensors", "fp16.bin", "bin", "non_ema.safetensors"])
def test_variants_of_the_weights(tiny, suffix):
    want = build(TINY)
    for part in ("unet", "vae"):
        file = tiny / part / "diffusion_pytorch_model.safetensors"
        state = {k: v.half() if "fp16" in suffix else v for k, v in load_file(file).items()}
        target = file.with_name(f"diffusion_pytorch_model.{suffix}")
        torch.save(state, target) if suffix.endswith("bin") else save_file(state, target)
        file.unlink()
    model = build(tiny)
    for ours, theirs in zip(model.unet.parameters(), want.unet.parameters(), strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, theirs.half().float() if "fp16" in suffix else theirs)


def test_the_plain_weights_come_first(tiny):
    shutil.copy(tiny / UNET, tiny / "unet/diffusion_pytorch_model.fp16.safetensors")
    edit_weights(
        tiny / "unet/diffusion_pytorch_model.fp16.safetensors",
        lambda s: s["conv_out.bias"].fill_(7),
    )
    assert not (build(tiny).unet.conv_out.bias == 7).any()


def test_a_scheduler_that_scales_the_input_is_obeyed(tiny):
    EulerDiscreteScheduler().save_pretrained(tiny / "scheduler")
    model = build(tiny)
    seen = []
    model.unet.conv_in.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    latents = torch.ones(1, 4, 8, 8)
    model.queries_and_keys(latents)
    sigma = model.scheduler.sigmas[model.options.time_step]
    torch.testing.assert_close(seen[0], latents / (sigma**2 + 1) ** 0.5)


def test_building_leaves_the_parts_as_they_were():
    parts = load_diffusion(TINY)
    model = DiffusionAttention(parts, default(DiffusionOptions, LAYERS))
    assert all(p.device.type == "cpu" for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())
