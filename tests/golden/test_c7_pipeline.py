"""C7: the whole of CLIPer, from a picture to labels, on the recorded CLIP and diffusion weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cliper.affinity import FuseOptions
from cliper.diffusion import DiffusionAttention, DiffusionOptions
from cliper.meta_arch import CLIPer
from cliper.postprocess import LabelOptions, fuse_scores
from cliper.refiner import DiffusionRefiner
from cliper.scores import ScoreOptions, coarse_scores
from hyperclip.vocabulary import TextEmbedder, Vocabulary, prompt_templates

from .test_c6_diffusion import noise, parts  # noqa: F401  (fixtures)


@pytest.mark.parametrize("name", ["norm", "plain"])
def test_pipeline(golden, fake_state, clip_from_file, parts, noise, name):  # noqa: F811
    recorded, info = golden("c7_pipeline.npz"), golden("c7_info.json")
    settings, loaded = info["settings"][name], clip_from_file("ViT-B/16")
    attention = DiffusionAttention(*parts, DiffusionOptions())
    attention.add_noise = lambda latents: DiffusionAttention.add_noise(attention, latents, noise)
    model = CLIPer(
        clip=loaded.model,
        text=TextEmbedder(loaded.tokenizer, prompt_templates("scene")),
        scores=ScoreOptions(threshold=settings["thr"]),
        labels=LabelOptions("abstain", settings["score_threshold"], settings["bkg_thre"], settings["is_normalize"]),
        refiner=DiffusionRefiner(attention, FuseOptions(threshold=settings["thr"])),
        window=settings["slide"],
    ).eval()
    vocabulary = Vocabulary(tuple((n,) for n in info["fg"]), negatives=tuple(info["bg"]))
    image = torch.from_numpy(fake_state.image(480, 640, 0)).permute(2, 0, 1)
    (encoded,) = model.encode([image])
    coarse = coarse_scores(encoded.embedded, model.embed_vocabulary(vocabulary), 6, model.scores)
    refined = encoded.refinement(coarse)
    np.testing.assert_allclose(refined[:, ::2, ::2], recorded[f"{name}_pred_mask_every2"], atol=1e-5)
    np.testing.assert_allclose(fuse_scores(refined, coarse), recorded[f"{name}_final_score"], atol=1e-5)
    model.set_vocabulary(vocabulary)
    (result,) = model([{"image": image, "height": 480, "width": 640}])
    differing = (result["sem_seg_labels"].numpy() + 1 != recorded[f"{name}_label"]).mean()
    assert differing <= 0.005
