"""C7: the whole of CLIPer, from an image to labels, on the recorded CLIP and diffusion weights.

Two cuts at a share of the largest value lie on the way: of the class probabilities, and of each
attention map. An entry at a cut falls on one side or the other by the processor's rounding.
``reference/rounding.py`` derives from this very computation which results that can change, and by
how much; all others agree to 1e-5.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cliper.affinity import FuseOptions
from cliper.diffusion import DiffusionAttention, DiffusionOptions
from cliper.postprocess import LabelOptions, fuse_scores
from cliper.refiner import DiffusionRefiner
from cliper.scores import ScoreOptions, coarse_scores
from hyperclip.clip import TextEmbedder
from hyperclip.vocabulary import Vocabulary, prompt_templates

from reference import rounding
from reference.cliper import attention_maps
from tests.golden.test_c6_diffusion import noise, parts  # noqa: F401  (fixtures)
from tests.helpers.asking import ask
from tests.helpers.defaults import default, make_cliper

IN_DOUBT = 0.1
"""At most this share of the results may be within reach of an entry at a cut: more, and the
comparison would say too little. It follows from the maps alone and hardly depends on the processor;
how many of them really move does.
"""
DIFFERING = 0.005
"""Share of the pixels whose label may differ (golden/README.md)."""


def doubt_of(encoded, coarse, text, attention, image, options):
    """By how much entries at the cuts may have moved each refined score (6, 64, 64)."""
    (maps,) = attention([image])
    low, high = rounding.coarse_bounds(encoded.embedded, text, 6, options)
    doubt, scores = (
        F.interpolate(x[None], maps.grid, mode="bilinear")[0].flatten(1).T
        for x in (high - low, coarse)
    )
    whole = [
        attention_maps([q], [k], [s])[0]
        for q, k, s in zip(maps.queries, maps.keys, maps.scales, strict=True)
    ]
    return rounding.refinement_doubt(whole, scores, doubt, options.attention_threshold).T.unflatten(
        1, maps.grid
    )


@pytest.mark.parametrize("name", ["norm", "plain"])
def test_pipeline(golden, fake_state, clip_from_file, parts, noise, name):  # noqa: F811
    recorded, info = golden("c7_pipeline.npz"), golden("c7_info.json")
    settings, loaded = info["settings"][name], clip_from_file("ViT-B/16")
    attention = DiffusionAttention(parts, default(DiffusionOptions))
    attention.add_noise = lambda latents: DiffusionAttention.add_noise(attention, latents, noise)
    model = make_cliper(
        loaded.model,
        TextEmbedder(loaded.tokenizer, prompt_templates("scene"), "first"),
        scores=default(ScoreOptions, attention_threshold=settings["thr"]),
        labels=default(
            LabelOptions,
            "abstain",
            settings["score_threshold"],
            settings["bkg_thre"],
            settings["is_normalize"],
        ),
        refiner=DiffusionRefiner(attention, default(FuseOptions, threshold=settings["thr"])),
        window=settings["slide"],
    ).eval()
    vocabulary = Vocabulary(tuple((n,) for n in info["fg"]), negatives=tuple(info["bg"]))
    image = torch.from_numpy(fake_state.image(480, 640, 0)).permute(2, 0, 1)
    (encoded,) = model.encode([image])
    text = model.embed_vocabulary(vocabulary)
    coarse = coarse_scores(encoded.embedded, text, 6, model.scores)
    refined = encoded.refinement(coarse)
    doubt = doubt_of(encoded, coarse, text, attention, image, model.scores)
    difference = np.abs(refined[:, ::2, ::2].numpy() - recorded[f"{name}_pred_mask_every2"])
    assert (difference <= 1e-5 + doubt[:, ::2, ::2].numpy()).all(), difference.max()
    assert (doubt > 1e-5).float().mean() <= IN_DOUBT
    lowest, highest = (fuse_scores(refined + sign * doubt, coarse).numpy() for sign in (-1, 1))
    final = recorded[f"{name}_final_score"]
    assert ((lowest - 1e-5 <= final) & (final <= highest + 1e-5)).all()
    result = ask(model, image, vocabulary)
    differing = (result["sem_seg_labels"].numpy() + 1 != recorded[f"{name}_label"]).mean()
    assert differing <= DIFFERING
