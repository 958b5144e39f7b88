"""H4: the head, its loss and its gradients; the other published models; more names than class
tokens.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hyperclip.adapters import adapters, merge
from hyperclip.head.cost_head import cost_volume
from hyperclip.inference import resize
from hyperclip.vocabulary import Vocabulary

LOGITS, LAYERS = 5e-5, 3e-4


@pytest.fixture(scope="module")
def arrays(golden):
    return golden("h4_head.npz")


@pytest.fixture(scope="module")
def vocabulary(golden):
    return Vocabulary.from_names(golden("h_info.json")["vocabulary"])


def pixels(fake_state, seed=1):
    return torch.from_numpy(fake_state.image(384, 384, seed)).permute(2, 0, 1)


def encode(model, image, vocabulary):
    x = (image.float() - model.pixel_mean) / model.pixel_std
    features = model.encode_views(resize(x[None], model.resolution))
    return features, model.text(model.clip, vocabulary)


@pytest.fixture
def pooled(hyperclip_b):
    """Set the evaluation pooling of the shared model, and set it back."""
    before = hyperclip_b.sem_seg_head.pooling_test
    yield lambda size: setattr(hyperclip_b.sem_seg_head, "pooling_test", (size, size))
    hyperclip_b.sem_seg_head.pooling_test = before


@torch.no_grad()
@pytest.mark.parametrize("literal", [False, True], ids=["fast", "literal"])
@pytest.mark.parametrize("pool", [1, 2])
def test_logits(arrays, fake_state, hyperclip_b, vocabulary, pooled, pool, literal):
    pooled(pool)
    head = hyperclip_b.sem_seg_head
    for _, module in adapters(hyperclip_b):
        module.literal = literal
    try:
        features, text = encode(hyperclip_b, pixels(fake_state), vocabulary)
    finally:
        for _, module in adapters(hyperclip_b):
            module.literal = False
    logits = head(features, text)
    name = f"pool{pool}"
    np.testing.assert_allclose(
        logits[:, :, ::4, ::4], arrays[f"{name}_logits_f32_every4"], atol=LOGITS, rtol=0
    )
    np.testing.assert_allclose(
        logits, arrays[f"{name}_logits"].astype(np.float32), atol=1e-3, rtol=0
    )
    flips = (logits[0].argmax(0).numpy() != arrays[f"{name}_argmax96"]).mean()
    assert flips <= 5e-4
    scores = resize(logits.sigmoid(), (384, 384))[0, :, ::8, ::8]
    np.testing.assert_allclose(scores, arrays[f"{name}_sem_seg_384_every8"], atol=1e-5, rtol=0)
    torch.testing.assert_close(
        head.infer(head.prepare(features), text, 7).whole(), logits, atol=2e-5, rtol=0
    )


@torch.no_grad()
@pytest.mark.parametrize("pool", [1, 2])
def test_every_step(arrays, fake_state, hyperclip_b, vocabulary, pool):
    head = hyperclip_b.sem_seg_head
    features, text = encode(hyperclip_b, pixels(fake_state), vocabulary)
    costs = cost_volume(features.embeddings, text)
    np.testing.assert_allclose(costs[0], arrays["cost_volume"], atol=1e-6, rtol=0)
    x = head.embed_costs(costs)
    np.testing.assert_allclose(
        x[0, :, ::6, ::6, ::8].permute(0, 3, 1, 2), arrays["corr_embed"], atol=LAYERS, rtol=0
    )
    appearance = F.relu(head.appearance_projection(features.embeddings))
    np.testing.assert_allclose(
        appearance[0, ::4, ::4, ::4], arrays["guidance"], atol=LAYERS, rtol=0
    )
    text_guidance = F.relu(head.text_projection(text))
    np.testing.assert_allclose(text_guidance, arrays["text_guidance"], atol=LAYERS, rtol=0)
    res4, res5 = (up(x) for up, x in zip(head.upsample, features.intermediates, strict=True))
    np.testing.assert_allclose(res4[0, ::8, ::8, ::8], arrays["res4"], atol=LAYERS, rtol=0)
    np.testing.assert_allclose(res5[0, ::8, ::16, ::16], arrays["res5"], atol=LAYERS, rtol=0)
    guidance = appearance.permute(0, 2, 3, 1)

    def sampled(maps):
        return maps[0, :, ::6, ::6, ::8].permute(3, 0, 1, 2)

    spatial = head.layers[0].spatial(x, head.layers[0].spatial.guide(guidance))
    np.testing.assert_allclose(
        sampled(spatial), arrays[f"pool{pool}_layer1_spatial"], atol=LAYERS, rtol=0
    )
    for i, layer in enumerate(head.layers):
        x = layer(x, layer.spatial.guide(guidance), text_guidance, (pool, pool))
        np.testing.assert_allclose(
            sampled(x), arrays[f"pool{pool}_layer{i + 1}"], atol=LAYERS, rtol=0
        )


@torch.no_grad()
def test_more_names_than_class_tokens(arrays, golden, fake_state, hyperclip_b):
    big = Vocabulary.from_names(golden("h_info.json")["big_vocabulary"])
    head = hyperclip_b.sem_seg_head
    features, text = encode(hyperclip_b, pixels(fake_state), big)
    costs = cost_volume(features.embeddings, text)
    np.testing.assert_allclose(
        costs.flatten(2).amax(-1)[0], arrays["big_cost_volume_max"], atol=1e-6, rtol=0
    )
    logits = head(features, text)
    kept = (logits[0].flatten(1).amax(-1) > -100).nonzero()[:, 0]
    np.testing.assert_array_equal(kept, arrays["big_selected"])
    want = arrays["big_logits_selected_every8"].astype(np.float32)
    np.testing.assert_allclose(logits[0, kept][:, ::8, ::8], want, atol=1e-3, rtol=2**-10)
    half = arrays["big_sem_seg_every8"]  # rounded to float16 when it was recorded
    np.testing.assert_allclose(logits[0, :, ::8, ::8].sigmoid(), half, atol=1e-5, rtol=2**-10)
    torch.testing.assert_close(
        head.infer(head.prepare(features), text, 50).whole(), logits, atol=2e-5, rtol=0
    )


@torch.no_grad()
@pytest.mark.parametrize(
    ("config", "model", "file"),
    [
        ("vitb_384_catseg.yaml", "catseg_vitb16", "h4_catseg_vitb16.npz"),
        ("vitl_336_catseg.yaml", "catseg_vitl14_336", "h4_catseg_vitl14_336.npz"),
    ],
)
def test_catseg(golden, fake_state, published_model, vocabulary, config, model, file):
    arrays = golden(file)
    built = published_model(config, model, "MODEL.SEM_SEG_HEAD.POOLING_SIZES_TEST", "[2, 2]")
    trainable = sum(p.numel() for p in built.parameters() if p.requires_grad)
    assert trainable == golden("reference_keys.json")["models"][model]["summary"]["trainable"]
    check_whole_model(built, arrays, fake_state, vocabulary)


@torch.no_grad()
def test_hyperclip_vitl(golden, fake_state, published_model, vocabulary):
    """The released ViT-L leaves blocks 11 to 22 without adapters; with identity there, ours
    agrees.
    """
    built = published_model(
        "vitl_336_hyperbolic.yaml",
        "hyperclip_vitl14_336",
        "MODEL.SEM_SEG_HEAD.POOLING_SIZES_TEST",
        "[2, 2]",
    )
    assert sum(p.numel() for _, m in adapters(built) for p in m.parameters()) == 12_976_128
    assert sum(p.numel() for p in built.sem_seg_head.parameters()) == 5_782_753
    blocks = built.clip.visual.transformer.resblocks
    for block in blocks[11:23]:
        for p in block.attn.parametrizations.in_proj_weight[0].parameters():
            p.copy_(torch.eye(128).expand_as(p))
    check_whole_model(built, golden("h4_hyperclip_vitl14_336.npz"), fake_state, vocabulary)


def check_whole_model(model, arrays, fake_state, vocabulary):
    features, text = encode(model, pixels(fake_state), vocabulary)
    tokens = torch.cat(
        [features.class_token[:, None], features.embeddings.flatten(2).transpose(1, 2)], 1
    )
    np.testing.assert_allclose(
        tokens[:, ::16, ::4], arrays["dense_every16_every4"], atol=5e-5, rtol=0
    )
    np.testing.assert_allclose(text, arrays["text_embeds"], atol=2e-5, rtol=0)
    logits = model.sem_seg_head(features, text)
    np.testing.assert_allclose(logits[:, :, ::4, ::4], arrays["logits_every4"], atol=LOGITS, rtol=0)
    scores = resize(logits.sigmoid(), (384, 384))[0, :, ::16, ::16]
    np.testing.assert_allclose(scores, arrays["sem_seg_384_every16"], atol=1e-5, rtol=0)
    before = logits
    assert merge(model) > 0
    features, text = encode(model, pixels(fake_state), vocabulary)
    torch.testing.assert_close(model.sem_seg_head(features, text), before, atol=2e-5, rtol=0)


def test_parameter_counts(golden, hyperclip_b):
    want = golden("reference_keys.json")["models"]["hyperclip_vitb16"]["summary"]
    counts = {
        "clip_adapter_parameters": sum(
            p.numel() for _, m in adapters(hyperclip_b) for p in m.parameters()
        ),
        "head_parameters": sum(p.numel() for p in hyperclip_b.sem_seg_head.parameters()),
        "parameters": sum(p.numel() for p in hyperclip_b.parameters()),
        "trainable": sum(p.numel() for p in hyperclip_b.parameters() if p.requires_grad),
    }
    assert counts == {key: want[key] for key in counts}
    assert counts["clip_adapter_parameters"] == 5_898_240 and counts["head_parameters"] == 4_668_641


def target(k):
    y, x = torch.meshgrid(torch.arange(384), torch.arange(384), indexing="ij")
    classes = ((y // 48) * 7 + (x // 48) * 3 + k) % 20
    return classes.masked_fill((x + y + 13 * k) % 96 < 16, 255)


@pytest.fixture
def training_model(golden, hyperclip_b, vocabulary):
    """The shared model in training mode without gradients; undone afterwards."""
    head, before = hyperclip_b.sem_seg_head, hyperclip_b.sem_seg_head.pooling_train
    hyperclip_b.train_vocabulary = vocabulary
    hyperclip_b.train()
    yield hyperclip_b
    hyperclip_b.zero_grad(set_to_none=True)
    hyperclip_b.eval()
    head.pooling_train = before


def test_losses(golden, fake_state, training_model, arrays):
    info = golden("h4_training.json")
    np.testing.assert_array_equal(target(0), arrays["target0"])
    batch = [{"image": pixels(fake_state, 1 + k), "sem_seg": target(k)} for k in (0, 1)]
    ignored = [{"image": pixels(fake_state), "sem_seg": torch.full((384, 384), 255)}]
    with torch.no_grad():
        got = [training_model(b)["loss_sem_seg"].item() for b in (batch[:1], batch, ignored)]
    flat = [v["loss_sem_seg"] if isinstance(v, dict) else v for v in info["losses"].values()]
    np.testing.assert_allclose(got, flat[: len(got)], atol=1e-6, rtol=0)


@pytest.mark.parametrize("literal", [False, True], ids=["fast", "literal"])
@pytest.mark.parametrize("pool", [2, 1])
def test_gradients(golden, fake_state, published_state, training_model, arrays, pool, literal):
    info = golden("h4_training.json")[f"pool{pool}"]
    training_model.sem_seg_head.pooling_train = (pool, pool)
    for _, module in adapters(training_model):
        module.literal = literal
    try:
        loss = training_model([{"image": pixels(fake_state), "sem_seg": target(0)}])["loss_sem_seg"]
        loss.backward()
    finally:
        for _, module in adapters(training_model):
            module.literal = False
    assert abs(loss.item() - info["loss"]) <= 1e-6
    gradients = by_published_name(training_model, info["grad_norm"])
    total = torch.stack([g.norm() for g in gradients.values()]).norm().item()
    assert total == pytest.approx(info["total_grad_norm"], rel=1e-3)
    rounding = 4e-7 * info["total_grad_norm"]  # of float32: 3 units in the last place of the whole
    for name, norm in info["grad_norm"].items():
        if norm > 1e-7:
            close = pytest.approx(norm, rel=1e-3, abs=rounding)
            assert gradients[name].norm().item() == close, name
        else:
            assert gradients[name].norm().item() <= 2e-7, name
    if pool == 2:
        recorded = {
            k.removeprefix("grad__"): v for k, v in arrays.items() if k.startswith("grad__")
        }
        assert len(recorded) >= 24
        for name, want in recorded.items():
            g = gradients[name].flatten()
            got = g[:: max(1, len(g) // 256)][:256].numpy()
            assert np.abs(got - want).max() <= 2e-3 * max(np.abs(want).max(), 1e-9), name


def by_published_name(model, names):
    """Gradients under the published names, found by converting a state dict of indices."""
    from hyperclip.checkpoints.conversion import convert_published

    parameters = dict(model.named_parameters())
    found = {}
    for name in names:
        (ours,) = convert_published({name: torch.zeros(1)})
        found[name] = parameters[ours].grad
    return found
