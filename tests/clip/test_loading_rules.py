"""Which architecture, activation and weights a name stands for."""

from __future__ import annotations

import json

import open_clip
import pytest
import torch
from hyperclip.clip import load_clip, loading
from safetensors.torch import load_file, save_file

QUICK, PLAIN = open_clip.transformer.QuickGELU, torch.nn.GELU
TINY = "configs/quickstart/tiny_clip"


def activations(model):
    blocks = [*model.visual.transformer.resblocks, *model.transformer.resblocks]
    return {type(block.mlp.gelu) for block in blocks}


@pytest.mark.parametrize(
    ("name", "weights", "expected"),
    [
        *((name, "none", QUICK) for name in loading.OPENAI_ARCHITECTURES),
        ("ViT-B-32", "none", PLAIN),
        ("ViT-B-32-quickgelu", "none", QUICK),
        ("ViT-L-14-336", "none", PLAIN),
        ("ViT-B-32:openai", "", QUICK),
        ("ViT-B-32", "openai", QUICK),
        ("ViT-B-16:dfn2b", "", QUICK),
        ("ViT-B-32:laion2b_s34b_b79k", "", PLAIN),
        ("ViT-B-32", "laion2b_s34b_b79k", PLAIN),
    ],
)
def test_the_activation_that_a_name_was_trained_with(name, weights, expected):
    """OpenAI's models and those trained from them have the quick GELU, in both towers."""
    with torch.device("meta"):
        model = load_clip(name, weights, load=False).model
    assert activations(model) == {expected}
    assert not model.training and next(model.parameters()).dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "width", "layers", "patch", "size"),
    [
        ("ViT-B/32", 768, 12, 32, 224),
        ("ViT-B/16", 768, 12, 16, 224),
        ("ViT-L/14", 1024, 24, 14, 224),
        ("ViT-L/14@336px", 1024, 24, 14, 336),
    ],
)
def test_what_openais_names_stand_for(name, width, layers, patch, size):
    with torch.device("meta"):
        visual = load_clip(name, "none").model.visual
    assert (
        visual.conv1.weight.shape == (width, 3, patch, patch)
        and len(visual.transformer.resblocks) == layers
    )
    assert len(visual.positional_embedding) == (size // patch) ** 2 + 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ViT-B/16", ("ViT-B-16", "openai")),
        ("ViT-L/14@336px", ("ViT-L-14-336", "openai")),
        ("ViT-B-16", ("ViT-B-16", "")),
        ("ViT-B-16:laion2b_s34b_b88k", ("ViT-B-16", "laion2b_s34b_b88k")),
        ("hf-hub:owner/name", ("hf-hub:owner/name", "")),
        (TINY, (TINY, "")),
    ],
)
def test_names_and_tags(name, expected):
    assert loading.split_name(name) == expected


def test_tags_are_loaded_with_their_activation(monkeypatch):
    """What open_clip is asked for, without a network."""
    asked = []

    def create(architecture, pretrained=None, **options):
        asked.append((architecture, pretrained, options))
        raise RuntimeError("no network here")

    monkeypatch.setattr(open_clip, "create_model", create)
    for name, weights in (
        ("ViT-B/16", ""),
        ("ViT-B-32", "laion2b_s34b_b79k"),
        ("ViT-B-32:metaclip_400m", ""),
        ("hf-hub:a/b", ""),
    ):
        with pytest.raises(
            FileNotFoundError, match="not in the local cache, and the download failed"
        ):
            load_clip(name, weights)
    assert [(a, p, bool(o.get("force_quick_gelu"))) for a, p, o in asked[:3]] == [
        ("ViT-B-16", "openai", True),
        ("ViT-B-32", "laion2b_s34b_b79k", False),
        ("ViT-B-32", "metaclip_400m", True),
    ]
    assert asked[3][:2] == ("hf-hub:a/b", None)


def test_a_folder_gives_its_own_architecture_activation_and_weights(tmp_path):
    state = load_file(f"{TINY}/open_clip_model.safetensors")
    config = json.loads(open(f"{TINY}/open_clip_config.json").read())
    loaded = load_clip(TINY)
    assert activations(loaded.model) == {QUICK if config["model_cfg"].get("quick_gelu") else PLAIN}
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, state[name].float()), name
    config["model_cfg"]["quick_gelu"] = True
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    save_file(state, tmp_path / "open_clip_model.safetensors")
    assert activations(load_clip(str(tmp_path)).model) == {QUICK}
    other = load_clip(str(tmp_path), load=False)
    assert activations(other.model) == {QUICK} and other.source == "random weights"
    assert not torch.equal(other.model.text_projection, state["text_projection"])


@pytest.mark.parametrize("wrap", ["state_dict", "model", ""])
def test_state_dicts_are_found_renamed_and_widened(tmp_path, wrap):
    state = {"module.a": torch.ones(2).half(), "b": torch.arange(3)}
    torch.save({wrap: state} if wrap else state, tmp_path / "x.pt")
    found = loading.read_state_dict(tmp_path / "x.pt")
    assert set(found) == {"a", "b"}
    assert found["a"].dtype == torch.float32 and found["b"].dtype == torch.int64


@pytest.mark.parametrize("extra", loading.OPENAI_EXTRAS)
def test_openais_format_is_told_by_its_extra_entries(tmp_path, extra):
    torch.save({"a": torch.ones(2), extra: torch.tensor(1)}, tmp_path / "x.pt")
    file = tmp_path / "x.pt"
    content = loading.read_state_dict(file)
    assert loading.activation_of_file("ViT-B/16", file, content) == loading.QUICK_GELU


def test_files_that_do_not_fit_say_what_is_wrong(tmp_path):
    state = load_file(f"{TINY}/open_clip_model.safetensors")
    missing = {k: v for k, v in state.items() if k != "ln_final.bias"}
    wrong = {**missing, "odd": torch.ones(1), "text_projection": torch.ones(2, 2)}
    save_file(wrong, tmp_path / "wrong.safetensors")
    with pytest.raises(
        ValueError,
        match="1 keys missing from the file: ln_final.bias; 1 keys unexpected: odd; 1 of another shape: "  # noqa: E501
        r"text_projection: file \(2, 2\), model \(64, 64\)\. Set MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED",  # noqa: E501
    ) as error:
        load_clip(TINY, str(tmp_path / "wrong.safetensors"))
    assert "\n" not in str(error.value)
    for part, message in (
        (missing, "': 1 keys missing from the file: ln_final.bias; 0 keys unexpected"),
        ({**state, "odd": torch.ones(1)}, "': 0 keys missing .*; 1 keys unexpected: odd; 0 of"),
    ):
        save_file(part, tmp_path / "part.safetensors")
        with pytest.raises(ValueError, match=message):
            load_clip(TINY, str(tmp_path / "part.safetensors"))


def test_files_win_over_the_weights_of_the_name(tmp_path):
    state = {k: v + 1 for k, v in load_file(f"{TINY}/open_clip_model.safetensors").items()}
    save_file(state, tmp_path / "mine.safetensors")
    loaded = load_clip(TINY, str(tmp_path / "mine.safetensors"))
    assert torch.equal(
        loaded.model.text_projection, state["text_projection"]
    ) and loaded.source.endswith("mine.safetensors")
    assert not torch.equal(
        load_clip(TINY, "none").model.text_projection, state["text_projection"] - 1
    )


def test_the_tokenizer_has_the_models_context():
    loaded = load_clip(TINY)
    assert loaded.model.context_length == 32 and loaded.tokenizer(["a star"]).shape == (1, 32)
