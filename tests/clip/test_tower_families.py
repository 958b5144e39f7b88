"""Towers of every family against open_clip's own forward; what cannot be read is refused."""

from __future__ import annotations

import copy
import importlib.util
import json

import open_clip
import pytest
import torch
import torch.nn.functional as F
from hyperclip.clip import check_layers, encode_text, load_clip, tokenize
from hyperclip.clip.building import set_preprocessing
from hyperclip.clip.image_tower import image_tower
from hyperclip.clip.text_cache_key import text_state
from hyperclip.clip.text_tower import text_tower
from hyperclip.clip.timm_vit_tower import value_only_block, value_only_pool
from hyperclip.normalization import CLIP_MEAN, CLIP_STD, pixel_statistics
from timm.models.eva import EvaBlock

from tests.helpers.model_folders import TEXTS, VISION, random_images, write_folder

OTHERS = [name for name in VISION if name != "vit"]
PROMPTS = ["a photo of a dog", "собака", "a road", "犬 道路"]


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """``load("convnext", "clip")``: a model of two families."""
    root, loaded = tmp_path_factory.mktemp("models"), {}

    def get(vision="vit", text="clip"):
        key = f"{vision}-{text}"
        if key not in loaded:
            loaded[key] = load_clip(write_folder(root / key, vision, text))
        return loaded[key]

    return get


def native(visual):
    size = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(5))


def close(ours, theirs, tolerance=1e-5):
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("name", OTHERS)
def test_what_open_clip_pools(load, name):
    model = load(name).model
    images = native(model.visual)
    close(image_tower(model.visual).encode(images).class_token, model.encode_image(images))


@torch.no_grad()
@pytest.mark.parametrize("name", VISION)
def test_maps_are_as_large_as_the_tower_says(load, name):
    tower = image_tower(load(name).model.visual)
    layers = [*tower.layers][::-1][:2]
    features = tower.encode(random_images(tower), layers)
    assert features.embeddings.shape == (2, tower.embed_dim, 2, 3)
    assert features.class_token.shape == (2, tower.embed_dim)
    for layer, found in zip(layers, features.intermediates, strict=True):
        scale = tower.scale(layer)
        assert found.shape == (2, tower.width(layer), 2 * scale, 3 * scale)
    largest = max(m[0].numel() for m in (features.embeddings, *features.intermediates))
    assert tower.entries(2 * tower.stride[0], 3 * tower.stride[1]) >= largest


@torch.no_grad()
@pytest.mark.parametrize("name", ["convnext", "fastvit"])
def test_a_cell_is_embedded_as_the_mean_of_cells_is(load, name):
    visual = load(name).model.visual
    images = native(visual)
    mean = visual.trunk.forward_features(images).mean((2, 3), keepdim=True)
    close(image_tower(visual).embed(mean)[:, :, 0, 0], visual(images))
    if name == "fastvit":  # whose head is linear
        close(image_tower(visual).encode(images).embeddings.mean((2, 3)), visual(images))


@torch.no_grad()
def test_a_resnets_cells_weighted_by_its_attention(load):
    """One head, so that the pooled embedding is a weighted mean of the values' embeddings."""
    visual = load("resnet").model.visual
    pool, images = visual.attnpool, native(visual)
    assert pool.num_heads == 1
    x = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(images)))))
    tokens = x.flatten(2).transpose(1, 2)
    tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1) + pool.positional_embedding
    q, k = pool.q_proj(tokens[:, :1]), pool.k_proj(tokens)
    weights = (q @ k.mT / k.shape[-1] ** 0.5).softmax(-1)
    dense = image_tower(visual).encode(images).embeddings.flatten(2).transpose(1, 2)
    every = torch.cat([pool.c_proj(pool.v_proj(tokens[:, :1])), dense], dim=1)
    close((weights @ every)[:, 0], visual(images))


@torch.no_grad()
@pytest.mark.parametrize("name", ["eva", "siglip"])
def test_blocks_of_timm_are_read_exactly(load, name, monkeypatch):
    """Intermediate maps are timm's own; without attention a block gives its value path."""
    visual = load(name).model.visual
    tower, images = image_tower(visual), native(visual)
    theirs = visual.trunk.forward_intermediates(images, indices=[0, 10], intermediates_only=True)
    for ours, want in zip(tower.encode(images, [0, 10]).intermediates, theirs, strict=True):
        close(ours, want)
    block, x = visual.trunk.blocks[-1], torch.randn(2, 5, 192)
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, **_: v)
    close(value_only_block(block, x), block(x))


@torch.no_grad()
def test_equal_patches_are_pooled_to_their_own_embedding(load):
    visual = load("siglip").model.visual
    pool, token = visual.trunk.attn_pool, torch.randn(2, 1, 192)
    close(value_only_pool(pool, token)[:, 0], pool(token.expand(-1, 7, -1)))
    tower, images = image_tower(visual), native(visual)
    tokens = visual.trunk.forward_features(images)[:, visual.trunk.num_prefix_tokens :]
    dense = tower.encode(images).embeddings.flatten(2).transpose(1, 2)
    close(dense, value_only_pool(pool, tokens))


@torch.no_grad()
@pytest.mark.parametrize("name", ["eva", "siglip"])
def test_positions_of_another_grid_are_those_of_a_trunk_of_that_size(load, name):
    visual = load(name).model.visual
    other = copy.deepcopy(visual)
    side = 18 * visual.trunk.patch_embed.patch_size[0]
    other.trunk.set_input_size(img_size=(side, side))
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(7))
    close(image_tower(visual).encode(images).class_token, other(images))


@pytest.mark.parametrize("name", VISION)
def test_idle_weights_are_those_without_a_gradient(load, name):
    """What has no influence is frozen, since processes that train together wait for gradients."""
    visual = load(name).model.visual
    tower = image_tower(visual)
    features = tower.encode(random_images(tower), [tower.layers[-1]])
    outputs = [features.embeddings, *features.intermediates]
    loss = sum(x.square().sum() for x in outputs)
    parameters = dict(visual.named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    without = {n for n, g in zip(parameters, found, strict=True) if g is None}
    idle = {id(p) for p in tower.idle}
    assert without == {n for n, p in parameters.items() if id(p) in idle}
    if name in ("resnet", "eva", "siglip"):
        assert without


@pytest.mark.parametrize("name", VISION)
def test_recomputed_activations_give_the_same_gradient(load, name):
    visual = load(name).model.visual
    tower, gradients = image_tower(visual), []
    images, weight = random_images(tower), next(visual.parameters())
    visual.train()
    for module in tower.fixed:
        module.eval()
    for recompute in (False, True):
        tower.set_recompute(recompute)
        loss = tower.encode(images).embeddings.square().sum()
        gradients.append(torch.autograd.grad(loss, weight)[0])
    tower.set_recompute(False)
    visual.eval()
    assert gradients[0].abs().max() > 0
    close(gradients[1], gradients[0], 1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", TEXTS)
def test_texts_are_encoded_as_open_clip_does(load, name):
    loaded = load("vit", name)
    tower = text_tower(loaded.model)
    assert tower.context_length == 16
    tokens = tokenize(loaded.tokenizer, PROMPTS, tower.context_length)
    assert tokens.shape == (4, 16)
    want = loaded.model.encode_text(tokens)
    close(encode_text(loaded.model, tokens), want)
    assert (want[0] - want[1]).abs().max() > 1e-2  # formula-made weights tell texts apart
    assert tower.entries(tokens) % tower.token_embedding.embedding_dim == 0


@torch.no_grad()
@pytest.mark.parametrize("name", TEXTS)
def test_every_weight_of_a_text_tower_counts_for_the_cache(load, name):
    loaded = load("vit", name)
    model = loaded.model
    tokens = tokenize(loaded.tokenizer, PROMPTS, 16).unique()
    before = text_state(model, tokens)
    model.visual.proj.add_(1.0)
    assert text_state(model, tokens) == before
    model.visual.proj.sub_(1.0)
    embedding = text_tower(model).token_embedding.weight
    for key, value in model.named_parameters():
        if key.startswith("visual.") or key in ("logit_scale", "logit_bias"):
            continue
        place = value[tokens[1]] if value is embedding else value
        kept = place.clone()
        place.add_(0.5)
        assert text_state(model, tokens) != before, key
        place.copy_(kept)
    assert text_state(model, tokens) == before


@torch.no_grad()
def test_a_context_beyond_the_positions_of_the_encoder(load):
    """RoBERTa's first position is behind the padding's index: 34 positions are for 32 tokens."""
    loaded = load("vit", "mean")
    loaded.model.context_length = 100
    try:
        assert text_tower(loaded.model).context_length == 32
        tokens = tokenize(loaded.tokenizer, ["a " * 30], 32)
        close(encode_text(loaded.model, tokens), loaded.model.encode_text(tokens))
    finally:
        loaded.model.context_length = 16


@pytest.mark.parametrize("name", TEXTS)
def test_texts_that_do_not_fit(load, name):
    loaded = load("vit", name)
    # "a" is one token for all of them, beside the beginning and the end
    assert tokenize(loaded.tokenizer, ["a " * 14], 16).shape == (1, 16)
    for count in (15, 16, 40):
        with pytest.raises(ValueError, match="longer than the text context of 16 tokens"):
            tokenize(loaded.tokenizer, ["a", "a " * count], 16)


@pytest.mark.parametrize("end_pads", [True, False])
def test_padding_that_looks_like_the_end_of_text(end_pads):
    """SigLIP's tokenizer pads with the id that ends a text; others end none at all."""

    def tokenizer(texts, context_length):
        ids = torch.ones(len(texts), context_length, dtype=torch.long)
        for row, text in zip(ids, texts, strict=True):
            words = [7] * len(text.split()) + [1] * end_pads
            words = words[: context_length - end_pads] + [1] * end_pads
            row[: min(len(words), context_length)] = torch.tensor(words)[:context_length]
        return ids

    fits = "w " * (4 - end_pads)
    assert tokenize(tokenizer, [fits], 4).shape == (1, 4)
    with pytest.raises(ValueError, match="longer than the text context of 4 tokens"):
        tokenize(tokenizer, [fits + "w"], 4)


def test_a_folder_is_what_open_clip_makes_of_it(load, tmp_path):
    folder = write_folder(tmp_path / "model", "convnext", "custom")
    ours, theirs = load_clip(folder).model, open_clip.create_model(f"local-dir:{folder}").eval()
    images = native(ours.visual)
    with torch.no_grad():
        assert torch.equal(ours.encode_image(images), theirs.encode_image(images))


def test_layers_that_a_tower_does_not_have(load):
    tower = image_tower(load("convnext").model.visual)
    check_layers([0, 2], tower)
    for layers in ([3], [-1, 0]):
        with pytest.raises(ValueError, match="CLIP_LAYERS: got .*, expected indices 0 to 2"):
            check_layers(layers, tower)


@pytest.mark.parametrize("name", ["convnext", "resnet", "siglip"])
def test_sizes_that_are_no_multiple_of_the_stride(load, name):
    tower = image_tower(load(name).model.visual)
    with pytest.raises(ValueError, match="got 225 x 224, expected multiples of the stride"):
        tower.encode(torch.zeros(1, 3, 225, 224))


def altered(tmp_path, changes, part="vision_cfg"):
    folder = tmp_path / "model"
    write_folder(folder, "vit")
    file = folder / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"][part] |= changes
    config["model_cfg"]["custom_text"] = True
    file.write_text(json.dumps(config))
    return str(folder)


@pytest.mark.parametrize(
    ("part", "changes", "reason"),
    [
        ("vision_cfg", {"attentional_pool": True}, "got a vision transformer with"),
        ("vision_cfg", {"qk_norm": True}, "CustomResidualAttentionBlock, expected CLIP's"),
        (
            "vision_cfg",
            {"timm_model_name": "resnet18", "timm_pool": "rot_attn", "timm_proj": ""},
            "RotAttentionPool2d, whose cells have no embeddings",
        ),
        (
            "vision_cfg",
            {"timm_model_name": "vit_tiny_r_s16_p8_224", "timm_pool": "token"},
            "HybridEmbed, expected PatchEmbed",
        ),
        ("text_cfg", {"pool_type": "none"}, "pooling 'none', which gives no embedding"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path, part, changes, reason):
    name = altered(tmp_path, changes, part)
    with pytest.raises(ValueError, match=f"cannot be read densely: .*{reason}") as error:
        load_clip(name, "none")
    assert "\n" not in str(error.value)


def test_a_pooler_of_hugging_face_that_open_clip_cannot_run(load, tmp_path):
    folder = tmp_path / "model"
    write_folder(folder, "vit", "mean")
    file = folder / "open_clip_config.json"
    file.write_text(file.read_text().replace("mean_pooler", "max_pooler"))
    with pytest.raises(ValueError, match="Hugging Face's with MaxPooler, expected one of"):
        load_clip(str(folder), "none")


def test_a_text_encoder_that_is_not_on_this_machine(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    write_folder(folder, "vit", "mean")
    file = folder / "open_clip_config.json"
    file.write_text(file.read_text().replace('"words"', '"owner/nowhere"'))

    def refuse(*_, **__):
        raise OSError("no route\nto host")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", refuse)
    with pytest.raises(FileNotFoundError, match="needs Hugging Face's 'owner/nowhere'") as error:
        load_clip(str(folder))
    assert "hf_model_name and hf_tokenizer_name" in str(error.value)
    assert "no route to host" in str(error.value) and "\n" not in str(error.value)


def test_without_transformers_the_command_that_installs_it(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "model", "vit", "mean")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "transformers" else found(n, *a)
    )
    with pytest.raises(ModuleNotFoundError, match=r'pip install "\.\[diffusion\]" in the repo'):
        load_clip(folder)


def test_encoders_that_no_tower_is_for():
    with pytest.raises(ValueError, match="got Linear, which cannot be read densely; expected one"):
        image_tower(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="text tower: got Linear, expected one of"):
        text_tower(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("fused", [True, False])
def test_a_single_token_attends_to_its_own_value(fused):
    """So EVA's block with a norm behind attention is the one that is read without attention."""
    block = EvaBlock(32, 2, qkv_fused=fused, scale_attn_inner=True, swiglu_mlp=True).eval()
    generator = torch.Generator().manual_seed(0)
    for p in block.parameters():
        p.data = 0.5 * torch.randn(p.shape, generator=generator)
    x = torch.randn(3, 1, 32, generator=generator)
    torch.testing.assert_close(value_only_block(block, x), block(x))


def test_tags_that_differ_say_nothing_of_weights_without_one(monkeypatch):
    """Whatever the order in which they are looked at."""
    tags = {"a": 0.5, "b": 0.25}
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda _: list(tags))
    known = lambda _, tag: {"mean": (tags[tag],) * 3, "std": (tags[tag],) * 3}  # noqa: E731
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", known)
    for tag, mean in (("", None), ("a", (0.5,) * 3), ("b", (0.25,) * 3)):
        model = torch.nn.Module()
        model.visual = torch.nn.Module()
        set_preprocessing(model, "ViT-B-32", tag, None)
        assert getattr(model.visual, "image_mean", None) == mean


def test_the_towers_pixel_statistics_count(tmp_path, caplog):
    half = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    tower = image_tower(load_clip(write_folder(tmp_path / "half", "vit", **half)).model.visual)
    used = pixel_statistics(tower.statistics, CLIP_MEAN, CLIP_STD)
    assert used == {"pixel_mean": (127.5,) * 3, "pixel_std": (127.5,) * 3}
    own = pixel_statistics(tower.statistics, [1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
    assert own == {"pixel_mean": (1.0, 2.0, 3.0), "pixel_std": (1.0, 1.0, 1.0)}
    assert "CLIP_PIXEL_MEAN, CLIP_PIXEL_STD: got mean [1.0, 2.0, 3.0]" in caplog.text
    usual = image_tower(load_clip(write_folder(tmp_path / "usual", "vit")).model.visual)
    assert pixel_statistics(usual.statistics, CLIP_MEAN, CLIP_STD)["pixel_mean"] == CLIP_MEAN
    file = tmp_path / "half" / "open_clip_model.safetensors"  # beside what says how it was trained
    given = image_tower(load_clip(str(tmp_path / "usual"), str(file)).model.visual)
    assert given.statistics == tower.statistics


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("ViT-L-14:laion2b_s32b_b82k", 127.5),
        ("ViT-L-14:laion400m_e32", CLIP_MEAN[0]),
        ("ViT-L-14", CLIP_MEAN[0]),  # whose tags differ, so it is CLIP's
        ("MobileCLIP-S1", 0.0),
    ],
)
def test_the_pixel_statistics_of_a_tag(name, mean):
    with torch.device("meta"):
        model = load_clip(name, load=False).model
    assert image_tower(model.visual).statistics[0][0] == pytest.approx(mean, abs=1e-3)


def test_recomputation_is_a_choice_of_the_text_towers(load):
    for name in TEXTS:
        loaded = load("vit", name)
        tower = text_tower(loaded.model)
        tokens, gradients = tokenize(loaded.tokenizer, PROMPTS, 16), []
        loaded.model.train()
        for module in tower.fixed:
            module.eval()
        for recompute in (False, True):
            tower.set_recompute(recompute)
            loss = tower.encode(tokens).square().sum()
            gradients.append(torch.autograd.grad(loss, tower.token_embedding.weight)[0])
        tower.set_recompute(False)
        loaded.model.eval()
        close(gradients[1], gradients[0], 1e-4)
