"""H2 and H3: the dense image tower, tokens and the text tower, with adapters and with identity
blocks.
"""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hyperclip.adapters import adapters
from hyperclip.clip import encode_dense, encode_text, tokenize
from hyperclip.clip.vit_tower import embed_patches, residual_block, resize_positions
from hyperclip.vocabulary import Vocabulary, prompt_templates

from tests.helpers.blocks import tower


@pytest.fixture(scope="module")
def image(fake_state, hyperclip_b, golden):
    pixels = fake_state.image(384, 384, 1)
    assert zlib.crc32(pixels.tobytes()) == golden("h2_encode_image.npz")["image_crc32"][0]
    x = torch.from_numpy(pixels).permute(2, 0, 1).float()
    return ((x - hyperclip_b.pixel_mean) / hyperclip_b.pixel_std)[None]


class Variant:
    """The model's adapters as recorded, as identity, or on the literal path; undone on exit."""

    def __init__(self, model, kind):
        self.modules = [m for _, m in adapters(model)]
        self.saved = [
            {n: p.detach().clone() for n, p in m.named_parameters()} for m in self.modules
        ]
        self.kind = kind

    @torch.no_grad()
    def __enter__(self):
        for module in self.modules:
            module.literal = self.kind.endswith("literal")
            if self.kind.startswith("identity"):
                for p in module.parameters():
                    p.copy_(torch.eye(p.shape[-1]).expand_as(p))

    @torch.no_grad()
    def __exit__(self, *_):
        for module, saved in zip(self.modules, self.saved, strict=True):
            module.literal = False
            for n, p in module.named_parameters():
                p.copy_(saved[n])


KINDS = ["adapted", "adapted-literal", "identity", "identity-literal"]


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_dense_image_tower(golden, hyperclip_b, image, kind):
    arrays, visual = golden("h2_encode_image.npz"), hyperclip_b.clip.visual
    name = kind.split("-")[0]
    with Variant(hyperclip_b, kind):
        features = encode_dense(visual, image, [3, 7])
        tokens = torch.cat(
            [features.class_token[:, None], features.embeddings.flatten(2).transpose(1, 2)], 1
        )
        x = embed_patches(visual, image)
        outputs = []
        for block in visual.transformer.resblocks[:-1]:
            x = residual_block(block, x)
            outputs.append(x)
    np.testing.assert_allclose(
        tokens[:, ::16], arrays[f"{name}_dense_f32_every16"], atol=5e-5, rtol=0
    )
    half = arrays[f"{name}_dense"].astype(np.float32)
    np.testing.assert_allclose(tokens, half, atol=5e-5, rtol=2**-10)
    for i in (3, 7):
        np.testing.assert_allclose(
            outputs[i][0, ::16, ::4], arrays[f"{name}_block{i + 1}_out"], atol=2e-4, rtol=0
        )
    for got, i in zip(features.intermediates, (3, 7), strict=True):
        torch.testing.assert_close(got.flatten(2).transpose(1, 2), outputs[i][:, 1:])
    stacked = torch.stack(outputs)[:, 0, ::96, ::8]
    np.testing.assert_allclose(stacked, arrays[f"{name}_blocks1to11_out"], atol=2e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["adapted", "identity"])
def test_class_token_of_plain_open_clip(golden, hyperclip_b, image, kind):
    """open_clip's own forward runs on the adapted weights; the released one left the last block
    unadapted there.
    """
    small = F.interpolate(image, size=(224, 224), mode="bilinear", align_corners=False)
    last = tower(hyperclip_b.clip, "vision")[-1].attn.parametrizations.in_proj_weight[0]
    with Variant(hyperclip_b, kind):
        for p in last.parameters():
            p.copy_(torch.eye(128).expand_as(p))
        got = hyperclip_b.clip.encode_image(small)
    np.testing.assert_allclose(
        got, golden("h2_encode_image.npz")[f"{kind}_cls_224_nondense"], atol=5e-5, rtol=0
    )


def test_position_embedding(golden, hyperclip_b):
    got = resize_positions(hyperclip_b.clip.visual.positional_embedding.detach(), (24, 24))
    np.testing.assert_allclose(
        got[::8, ::8], golden("h2_encode_image.npz")["pos_embed_24x24_every8"], atol=1e-6, rtol=0
    )


def test_tokens(golden, hyperclip_b):
    info, arrays = golden("h3_text.json"), golden("h3_text.npz")
    template = info["template"]
    assert prompt_templates("single") == (template,)
    tokenizer = hyperclip_b.text.tokenizer

    def tokens(entries):  # each a vocabulary of its own: some of all names have the same tokens
        names = [Vocabulary.from_names([entry]).names[0] for entry in entries]
        return tokenize(tokenizer, [template.format(name) for name in names], 77).numpy()

    np.testing.assert_array_equal(tokens(info["names"]), arrays["tokens"])
    got = tokens(info["all_names"])
    width = arrays["all_tokens"].shape[1]
    np.testing.assert_array_equal(got[:, :width], arrays["all_tokens"])
    assert not got[:, width:].any()


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_text_tower(golden, hyperclip_b, kind):
    info, arrays = golden("h3_text.json"), golden("h3_text.npz")
    name = kind.split("-")[0]
    with Variant(hyperclip_b, kind):
        raw = encode_text(hyperclip_b.clip, torch.from_numpy(arrays["tokens"]).long())
        unit = hyperclip_b.text(hyperclip_b.clip, Vocabulary.from_names(info["names"]))
    np.testing.assert_allclose(raw, arrays[f"{name}_encode_text"], atol=2e-5, rtol=0)
    np.testing.assert_allclose(unit, arrays[f"{name}_text_embeds"], atol=2e-5, rtol=0)
