"""Models of other families through the whole system: the shipped configs on small models of the
same kinds, training steps, an image tower of one's own.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from hyperclip.adapters import attentions, parameter_table
from hyperclip.checkpoints.checkpointer import StrictCheckpointer
from hyperclip.clip import image_tower as families
from hyperclip.config.keys import load_config
from hyperclip.dense_features import DenseFeatures
from hyperclip.predictor import Predictor
from hyperclip.vocabulary import Vocabulary

from tests.helpers.model_folders import write_folder

KINDS = {
    "convnext_base_w_catseg": ("convnext", "clip"),
    "xlm_roberta_vitb32_hyperbolic": ("vit", "mean"),
}
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.ADAPTER.BLOCK_SIZE": 16,
    "MODEL.SEM_SEG_HEAD.FEATURE_RESOLUTION": [4, 4],
    "MODEL.SEM_SEG_HEAD.WINDOW_SIZES": 2,
    "MODEL.SEM_SEG_HEAD.HIDDEN_DIMS": 16,
    "MODEL.SEM_SEG_HEAD.DECODER_DIMS": [16, 16],
    "MODEL.SEM_SEG_HEAD.DECODER_GUIDANCE_DIMS": [8, 8],
    "MODEL.SEM_SEG_HEAD.DECODER_GUIDANCE_PROJ_DIMS": [4, 4],
    "TEST.SLIDING.SIZE": 106,
    "TEST.SLIDING.KERNEL": 64,
    "INPUT.MIN_SIZE_TEST": 64,
}
HEAD = "MODEL.SEM_SEG_HEAD"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("backbones")
    return {
        (vision, text): write_folder(root / f"{vision}-{text}", vision, text)
        for vision, text in (*KINDS.values(), ("resnet", "cls"), ("siglip", "siglip"))
    }


def config(name, folder, **changes):
    settings = {**SMALL, f"{HEAD}.CLIP_PRETRAINED": folder, **changes}
    if name != "convnext_base_w_catseg":
        settings[f"{HEAD}.CLIP_LAYERS"] = settings.get(f"{HEAD}.CLIP_LAYERS", [0, 1])
    overrides = [str(part) for pair in settings.items() for part in pair]
    return load_config(f"configs/{name}.yaml", overrides)


def batch():
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=generator)
    return [{"image": image, "sem_seg": torch.randint(0, 3, (64, 64), generator=generator)}] * 2


@pytest.mark.parametrize("name", KINDS)
def test_a_shipped_config_from_training_to_a_label_map(folders, name, tmp_path):
    """One step of training, a checkpoint, and an image segmented by words of two languages."""
    folder = folders[KINDS[name]]
    torch.manual_seed(0)
    model = build_model(config(name, folder)).train()
    model.train_vocabulary = Vocabulary.from_text("dog; road; sky")
    model(batch())["loss_sem_seg"].backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert [n for n, p in trained.items() if p.grad is None] == []
    text = [n for n in trained if n.startswith("clip.") and ".visual." not in n]
    assert text and any(trained[n].grad.abs().max() > 0 for n in text)
    StrictCheckpointer(model, str(tmp_path)).save("model")
    weights = str(tmp_path / "model.pth")
    predictor = Predictor.from_config(config(name, folder, **{"MODEL.WEIGHTS": weights}))
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    predictor.set_image(image)
    answer = predictor.predict("dog; road; sky")
    assert answer.labels.shape == (70, 90) and set(np.unique(answer.labels)) <= {0, 1, 2}
    translated = predictor.predict("собака; дорога; 犬")
    assert translated.labels.shape == (70, 90) and translated.names[0] == "собака"
    embedded = predictor.model.text(
        predictor.model.clip, Vocabulary.from_text("собака; дорога; 犬")
    )
    assert (embedded[0] @ embedded[1]).item() < 1 - 1e-6
    described = predictor.model.describe()
    assert described.backbone == folder


def test_the_shipped_configs_name_weights_that_open_clip_knows():
    from hyperclip.clip.loading import split_name

    for name in KINDS:
        cfg = load_config(f"configs/{name}.yaml")
        architecture, tag = split_name(cfg.MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED)
        assert architecture and tag


@pytest.mark.parametrize("mode", ["hyperbolic", "full"])
@pytest.mark.parametrize(
    ("kind", "layers"), [(("resnet", "cls"), [2, 1]), (("siglip", "siglip"), [3, 7])]
)
def test_all_that_trains_gets_a_gradient(folders, kind, layers, mode):
    """In other families, too, and without chance: what has no influence is frozen."""
    changes = {f"{HEAD}.CLIP_LAYERS": layers, f"{HEAD}.CLIP_FINETUNE": mode}
    model = build_model(config("xlm_roberta_vitb32_hyperbolic", folders[kind], **changes))
    model.train_vocabulary = Vocabulary.from_text("dog; road; sky")
    losses = [model.train()(batch())["loss_sem_seg"] for _ in range(2)]
    assert torch.equal(*losses)  # nothing is dropped at random
    losses[0].backward()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_training_neither_drops_nor_changes_statistics(folders):
    """Dropout of Hugging Face's encoder, stochastic depth of ConvNeXt, batch norms of a ResNet."""
    for kind in (("convnext", "clip"), ("resnet", "cls")):
        name = "convnext_base_w_catseg"
        model = build_model(config(name, folders[kind], **{f"{HEAD}.CLIP_FINETUNE": "none"}))
        model.train_vocabulary = Vocabulary.from_text("dog; road")
        before = {n: b.clone() for n, b in model.clip.named_buffers()}
        text = model.eval().text(model.clip, model.train_vocabulary)
        view = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
        want = model.encode_views(view).embeddings
        model.train()
        assert torch.equal(model.encode_views(view).embeddings, want)
        assert torch.equal(model.text(model.clip, model.train_vocabulary), text)
        assert all(torch.equal(b, before[n]) for n, b in model.clip.named_buffers())


def test_the_heads_kernels_follow_the_scale_of_the_maps(folders):
    convnext, vit = (build_model(config(name, folders[KINDS[name]])) for name in KINDS)
    sizes = [[up.kernel_size[0] for up in m.sem_seg_head.upsample] for m in (convnext, vit)]
    assert sizes == [[1, 1], [2, 4]]
    assert [up.in_channels for up in convnext.sem_seg_head.upsample] == [160, 80]
    for layers, entry in (([1, 0], 0), ([2, 0], 1)):
        cfg = config(
            "convnext_base_w_catseg",
            folders["convnext", "clip"],
            **{f"{HEAD}.CLIP_LAYERS": layers},
        )
        with pytest.raises(ValueError, match=f"CLIP_LAYERS: entry {entry} is a map") as error:
            build_model(cfg)
        assert "\n" not in str(error.value)
    cfg = config("convnext_base_w_catseg", folders["convnext", "clip"])
    cfg.MODEL.SEM_SEG_HEAD.CLIP_LAYERS = [3, 1]
    with pytest.raises(ValueError, match="CLIP_LAYERS: got .*, expected indices 0 to 2"):
        build_model(cfg)


def test_a_tower_of_ones_own_needs_a_class_and_a_line(folders, monkeypatch):
    """An encoder with a grid of stride 16 and maps of strides 8 and 4."""

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = (3, 8, 12, 24)
            self.stages = torch.nn.ModuleList(
                torch.nn.Conv2d(a, b, s, s)
                for a, b, s in zip(widths, widths[1:], (4, 2, 2), strict=False)
            )

    class Tower:
        embed_dim, stride, layers = 24, (16, 16), range(2)
        statistics = ((0.0,) * 3, (255.0,) * 3)
        attentions, idle, fixed = [], [], []  # noqa: RUF012

        def __init__(self, visual):
            self.visual = visual

        def width(self, layer):
            return (8, 12)[layer]

        def scale(self, layer):
            return (4, 2)[layer]

        def entries(self, height, width):
            return height * width

        def set_recompute(self, enabled):
            pass

        def encode(self, images, layers=()):
            maps = [images]
            for stage in self.visual.stages:
                maps.append(stage(maps[-1]))
            wanted = [maps[1 + layer] for layer in layers]
            return DenseFeatures(maps[-1], wanted, maps[-1].mean((2, 3)))

    monkeypatch.setitem(families.IMAGE_TOWERS, Encoder, Tower)
    monkeypatch.setattr("open_clip.model._build_vision_tower", lambda *_: Encoder())
    changes = {f"{HEAD}.CLIP_LAYERS": [1, 0], "MODEL.CLIP_WEIGHTS": "none"}
    cfg = config("xlm_roberta_vitb32_hyperbolic", folders["vit", "mean"], **changes)
    model = build_model(cfg)
    assert model.resolution == (64, 64) and model.pixel_mean.flatten().tolist() == [0.0] * 3
    assert [up.kernel_size[0] for up in model.sem_seg_head.upsample] == [1, 1]
    assert attentions(model.clip, "vision") == []
    assert "CLIP vision adapters (no attention)" in [row[0] for row in parameter_table(model)]
    model.train_vocabulary = Vocabulary.from_text("dog; road; sky")
    model.train()(batch())["loss_sem_seg"].backward()
    with torch.no_grad():
        encoded = model.eval().encode([batch()[0]["image"]])
    assert len(encoded) == 1


def test_cliper_needs_a_vit(folders):
    cfg = load_config(
        "configs/cliper/universal_vitb16.yaml",
        [
            *("MODEL.DEVICE", "cpu", "MODEL.CLIPER.REFINER.NAME", "none"),
            *(f"{HEAD}.CLIP_PRETRAINED", folders["convnext", "clip"]),
        ],
    )
    with pytest.raises(ValueError, match="with ConvNeXt, but CLIPer reads the attention maps"):
        build_model(cfg)


def test_a_model_normalises_as_its_weights_were_trained(tmp_path):
    half = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    folder = write_folder(tmp_path / "half", "vit", "mean", **half)
    model = build_model(config("xlm_roberta_vitb32_hyperbolic", folder))
    assert model.pixel_mean.flatten().tolist() == [127.5] * 3
    assert model.checkpoint_settings()["MODEL.CLIP_PIXEL_STD"] == [63.75] * 3
