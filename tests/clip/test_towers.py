"""The towers' short cuts equal open_clip's own forward; errors name what is wrong."""

from __future__ import annotations

import hashlib

import open_clip
import pytest
import torch
from hyperclip.adapters import AdapterOptions, RadiusAdjustment, prepare_finetuning
from hyperclip.clip import encode_dense, encode_text, load_clip, loading, tokenize
from hyperclip.clip.vit_tower import residual_block, value_only_block

from reference import clip as obvious
from tests.helpers.defaults import default

TINY = "configs/quickstart/tiny_clip"


@pytest.fixture(scope="module")
def tiny():
    return load_clip(TINY)


PROMPTS = {
    "all differ": ["a dog", "a photo of a red striped star in the scene", "x"],
    "one template": [
        "a photo of a red star",
        "a photo of a dog in the scene",
        "a photo of a red striped star",
    ],
    "one begins as the other": ["a dog", "a dog on a red cross"],
    "equal": ["a red star", "a red star"],
    "single": ["a red star"],
}


@torch.no_grad()
@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_trimmed_text_with_a_shared_beginning_equals_the_whole_context(
    tiny, dtype, tolerance, prompts
):
    model = load_clip(TINY).model.to(dtype)
    tokens = tokenize(tiny.tokenizer, prompts, 32)
    want = obvious.encode_text(model, tokens)
    assert (encode_text(model, tokens) - want).abs().max() <= tolerance * want.abs().max()


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_value_only_block(dtype, tolerance):
    model = load_clip(TINY).model.to(dtype)
    block = model.visual.transformer.resblocks[-1]
    x = torch.randn(2, 10, 128, dtype=dtype)
    want = obvious.value_only_block(block, x)
    assert (value_only_block(block, x) - want).abs().max() <= tolerance * want.abs().max()
    own = block(x)
    assert (residual_block(block, x) - own).abs().max() <= 10 * tolerance * own.abs().max()


@torch.no_grad()
def test_dense_tower_shapes_and_intermediates(tiny):
    features = encode_dense(tiny.model.visual, torch.randn(2, 3, 64, 96), [0, 4])
    assert features.embeddings.shape == (2, 64, 8, 12) and features.class_token.shape == (2, 64)
    assert [tuple(m.shape) for m in features.intermediates] == [(2, 128, 8, 12)] * 2
    image = torch.randn(1, 3, 48, 48)
    reference = tiny.model.visual.forward_intermediates(
        image, indices=[0, 4], intermediates_only=True
    )
    got = encode_dense(tiny.model.visual, image, [0, 4]).intermediates
    for ours, theirs in zip(got, reference["image_intermediates"], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["hyperbolic", "attention", "full", "none"])
def test_every_mode_starts_at_the_identity(tiny, mode):
    model = load_clip(TINY).model
    prepare_finetuning(
        model, mode, options=default(AdapterOptions, block_size=32, curvature_text=0.01)
    )
    images, tokens = (
        torch.randn(1, 3, 48, 48),
        tokenize(tiny.tokenizer, ["a blue dotted cross"], 32),
    )
    want = encode_dense(tiny.model.visual, images).embeddings
    torch.testing.assert_close(
        encode_dense(model.visual, images).embeddings, want, atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(
        encode_text(model, tokens), encode_text(tiny.model, tokens), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("c", [1.0, 0.01])
@pytest.mark.parametrize("scale", [0.02, 0.2, 1.0, 12.0])
def test_block_product_equals_the_hyperbolic_maps(c, scale):
    """Float64 against the formulas written out, from tiny rows to rows above both caps."""
    adapter = RadiusAdjustment(64, 16, c).double()
    with torch.no_grad():
        for p in adapter.parameters():
            p.add_(0.1 * torch.randn(p.shape, dtype=torch.float64))
    weight = scale * torch.randn(192, 64, dtype=torch.float64)
    want = torch.cat(
        [
            obvious.adjusted_weight(w, getattr(adapter, n), c)
            for w, n in zip(weight.chunk(3), "qkv", strict=True)
        ]
    )
    got, cotangent = adapter(weight), torch.randn(192, 64, dtype=torch.float64)
    # The input cap at artanh(1 - 1e-5) rests on a rounded number and is reached by clamping, hence
    # the wider bound.
    tolerance = 1e-10 if scale < 1 or c < 1 else 1e-7
    assert (got - want).abs().max() <= tolerance * want.abs().max()
    ours = torch.autograd.grad(got, list(adapter.parameters()), cotangent)
    theirs = torch.autograd.grad(want, list(adapter.parameters()), cotangent)
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= 1e-6 * b.abs().max()
    adapter.literal = True
    assert (adapter(weight) - want).abs().max() <= 1e-6 * want.abs().max()


def test_quick_gelu_is_chosen_for_openai_weights(tmp_path):
    state = open_clip.create_model("ViT-B-32", pretrained=None).state_dict()
    plain, openai = tmp_path / "plain.pt", tmp_path / "openai.pt"
    torch.save(state, plain)
    torch.save({**state, **{k: torch.tensor(1) for k in loading.OPENAI_EXTRAS}}, openai)

    def activation(name, weights):
        return type(load_clip(name, str(weights)).model.visual.transformer.resblocks[0].mlp.gelu)

    assert activation("ViT-B-32", plain) is torch.nn.GELU
    assert activation("ViT-B-32", openai) is open_clip.transformer.QuickGELU
    with pytest.raises(ValueError, match="Set MODEL.CLIP_ACTIVATION to quick_gelu"):
        activation("ViT-B/32", plain)  # OpenAI's or LAION's: nothing in the file says which

    # what a checkpoint is loaded over has to have the same activation
    def unloaded(name, weights=""):
        return type(
            load_clip(name, str(weights), load=False).model.visual.transformer.resblocks[0].mlp.gelu
        )

    assert (
        unloaded("ViT-B-32", openai)
        is unloaded("ViT-B-32:openai")
        is open_clip.transformer.QuickGELU
    )
    assert (
        unloaded("ViT-B-32", "metaclip_400m")
        is unloaded("ViT-B/32")
        is open_clip.transformer.QuickGELU
    )
    assert unloaded("ViT-B-32", plain) is unloaded("ViT-B-32:laion2b_s34b_b79k") is torch.nn.GELU


def test_torchscript_archives_need_a_known_hash(tmp_path, monkeypatch):
    read_state_dict = loading.read_state_dict

    class Inner(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = torch.nn.Parameter(torch.ones(2, 3))
            self.register_buffer("input_resolution", torch.tensor(224))

        def forward(self, x):
            return x @ self.proj

    path = tmp_path / "ViT-B-16.pt"
    torch.jit.script(Inner()).save(str(path))
    with pytest.raises(ValueError, match="is not one of OpenAI's published models"):
        read_state_dict(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(loading.OPENAI_SHA256, digest, "test")
    assert set(read_state_dict(path)) == {"proj", "input_resolution"}


class Tree(torch.nn.Module):
    """Parameters and buffers under dotted names, as OpenAI's archives hold them."""

    def __init__(self, state):
        super().__init__()
        children = {}
        for name, value in state.items():
            head, _, rest = name.partition(".")
            if rest:
                children.setdefault(head, {})[rest] = value
            else:
                self.register_buffer(name, value)
        for name, part in children.items():
            self.add_module(name, Tree(part))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_openai_archive_and_state_dict_in_their_true_format(fake_state, tmp_path, monkeypatch):
    """ViT-B/16 with OpenAI's key names, half precision and extra entries, as a TorchScript archive
    and as a state dict.
    """
    state = {
        k: v.half() if v.is_floating_point() else v
        for k, v in fake_state.clip_state("ViT-B/16").items()
    }
    archive, plain = tmp_path / "ViT-B-16.pt", tmp_path / "state.pt"
    torch.jit.script(Tree(state)).save(str(archive))
    torch.save(state, plain)
    monkeypatch.setitem(
        loading.OPENAI_SHA256, hashlib.sha256(archive.read_bytes()).hexdigest(), "test"
    )
    for path in (archive, plain):
        loaded = load_clip("ViT-B/16", str(path))
        own = loaded.model.state_dict()
        assert set(own) == set(state) - set(loading.OPENAI_EXTRAS) and loaded.source == str(path)
        for name, value in own.items():
            assert value.dtype == torch.float32 and torch.equal(value, state[name].float()), name
        assert (
            type(loaded.model.visual.transformer.resblocks[0].mlp.gelu)
            is open_clip.transformer.QuickGELU
        )


def test_safetensors_of_another_architecture(tmp_path):
    with pytest.raises(ValueError, match="does not fit the CLIP architecture 'ViT-B/32'"):
        load_clip("ViT-B/32", f"{TINY}/open_clip_model.safetensors")


@pytest.mark.parametrize(
    ("name", "weights", "error", "message"),
    [
        ("ViT-X/16", "", ValueError, "got 'ViT-X/16', expected one of"),
        ("ViT-B-16", "", ValueError, "Add a tag"),
        ("ViT-B-16:typo", "", ValueError, "got tag 'typo', expected one of"),
        ("ViT-B/16", "nowhere.pt", FileNotFoundError, "'nowhere.pt', which does not exist"),
        ("coca_ViT-B-32", "none", ValueError, "'coca_ViT-B-32' is a captioning model"),
        (
            "swin_base_patch4_window7_224",
            "none",
            ValueError,
            "'swin_base_patch4_window7_224' cannot be read densely: image tower: got timm's "
            "SwinTransformer",
        ),
    ],
)
def test_what_cannot_be_loaded(name, weights, error, message):
    with pytest.raises(error, match=message):
        load_clip(name, weights)


def test_a_failed_download_says_what_to_do(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("no route to host")

    monkeypatch.setattr(open_clip, "create_model", refuse)
    with pytest.raises(FileNotFoundError, match="MODEL.CLIP_WEIGHTS to a local file"):
        load_clip("ViT-B/16")


def test_truncated_weights(tmp_path):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(open(f"{TINY}/open_clip_model.safetensors", "rb").read()[:5000])
    with pytest.raises(ValueError, match="cut short"):
        load_clip("ViT-B/32", str(path))


def test_size_that_is_no_multiple_of_the_patch(tiny):
    with pytest.raises(ValueError, match="got 50 x 48, expected multiples of the patch size 8 x 8"):
        encode_dense(tiny.model.visual, torch.zeros(1, 3, 50, 48))
    with pytest.raises(ValueError, match="expected indices 0 to 4"):
        encode_dense(tiny.model.visual, torch.zeros(1, 3, 48, 48), [5])
