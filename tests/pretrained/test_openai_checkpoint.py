"""The CLIP of a model in OpenAI's format."""

from __future__ import annotations

import json

import open_clip
import pytest
import torch
from hyperclip import load_config
from hyperclip.clip import load_clip
from hyperclip.commands import export_clip
from hyperclip.load import load_system
from hyperclip.pretrained.openai_checkpoint import openai_state

from tests.helpers.model_folders import write_folder

CONFIG = "configs/quickstart/dense_clip.yaml"
CPU = ("MODEL.DEVICE", "cpu")


@pytest.fixture
def keys(tmp_path):
    """A config's values for a CLIP of OpenAI's kind, with 64 channels a head."""
    folder = tmp_path / "vit"
    write_folder(folder, "vit")
    file = folder / "open_clip_config.json"
    content = json.loads(file.read_text())
    towers = content["model_cfg"]
    towers["vision_cfg"] |= {"width": 128, "head_width": 64}
    towers["text_cfg"] |= {"width": 128, "heads": 2}
    towers["quick_gelu"] = True
    file.write_text(json.dumps(content))
    model = open_clip.CLIP(24, towers["vision_cfg"], towers["text_cfg"], quick_gelu=True)
    torch.save(model.state_dict(), tmp_path / "weights.bin")
    return [
        *CPU,
        *("MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED", str(folder)),
        *("MODEL.CLIP_WEIGHTS", str(tmp_path / "weights.bin")),
        *("MODEL.CLIP_ACTIVATION", "quick_gelu", "MODEL.SEM_SEG_HEAD.CLIP_LAYERS", "[0, 1]"),
        *("MODEL.SEM_SEG_HEAD.FEATURE_RESOLUTION", "[4, 4]"),
    ]


def test_open_clip_and_we_read_it(keys, tmp_path):
    file = tmp_path / "openai.pt"
    arguments = ["--config-file", CONFIG, "--output", str(file), "--format", "openai"]
    export_clip.main([*arguments, *keys])
    state = torch.load(file, weights_only=True)
    numbers = [int(state[name]) for name in ("input_resolution", "context_length", "vocab_size")]
    assert numbers == [32, 16, 49408]
    assert {"visual.conv1.weight", "transformer.resblocks.0.attn.in_proj_weight"} <= state.keys()
    own = load_system(load_config(CONFIG, keys)).clip
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = own.encode_image(image)
        read = open_clip.load_openai_model(str(file), precision="fp32", device="cpu")
        # open_clip rounds matrices to float16 when it reads this format
        torch.testing.assert_close(read.encode_image(image), expected, atol=5e-3, rtol=1e-2)
        again = load_clip(keys[3], str(file)).model
        assert torch.equal(again.encode_image(image), expected)
    with pytest.raises(FileExistsError, match="openai.pt', which is there"):
        export_clip.main([*arguments, *keys])


def test_what_it_cannot_hold(keys):
    trained = load_system(load_config("configs/quickstart/hyperclip_trained.yaml", CPU))
    with pytest.raises(ValueError, match="got the activation gelu, which it cannot hold"):
        openai_state(trained)
    model = load_system(load_config(CONFIG, keys))
    model.pixel_mean += 9
    with pytest.raises(ValueError, match="got pixel statistics"):
        openai_state(model)
    model.clip.visual.transformer.resblocks[0].attn.num_heads = 4
    with pytest.raises(ValueError, match=r"heads of the widths \[32, 64\]"):
        openai_state(model)
