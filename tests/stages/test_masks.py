"""Masks of SAM, SAM 2 and EoMT with tiny random weights, and which of them count."""

from __future__ import annotations

import pytest
import torch
from hyperclip import load_config
from hyperclip.stages.proposers import EomtMasks, MaskRules, SamMasks
from hyperclip.stages.proposers.sam import grid_of_points, stability
from hyperclip.stages.proposers.transformers_masks import distinct
from hyperclip.stages.regions import partition
from hyperclip.stages.staged import build_stages

from reference import stages as reference
from tests.stages.test_stages import Foreign

transformers = pytest.importorskip("transformers")

DECODER = {
    "hidden_size": 8,
    "mlp_dim": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "iou_head_hidden_dim": 8,
}
PROMPTS = {"hidden_size": 8, "image_size": 64, "patch_size": 16, "mask_input_channels": 4}
IMAGE = torch.randint(0, 255, (3, 48, 40), generator=torch.Generator().manual_seed(0)).byte()


def sam():
    from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

    vision = {
        "hidden_size": 16,
        "output_channels": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 16,
        "global_attn_indexes": [0],
        "window_size": 2,
        "mlp_dim": 16,
        "num_pos_feats": 4,
    }
    config = SamConfig(
        vision_config=vision, prompt_encoder_config=PROMPTS, mask_decoder_config=DECODER
    )
    sizes = {"size": {"longest_edge": 64}, "pad_size": {"height": 64, "width": 64}}
    return SamModel(config), SamProcessor(SamImageProcessor(**sizes))


def sam2():
    from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model, Sam2Processor

    backbone = {
        "hidden_size": 8,
        "image_size": [64, 64],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [4, 4, 4, 4],
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [2, 2],
        "model_type": "sam2_hiera_det_model",
    }
    vision = {
        "backbone_config": backbone,
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "fpn_hidden_size": 32,
    }
    config = Sam2Config(
        vision_config=vision,
        prompt_encoder_config={**PROMPTS, "hidden_size": 32},
        mask_decoder_config={**DECODER, "hidden_size": 32},
    )
    square = {"height": 64, "width": 64}
    processor = Sam2ImageProcessor(size=square, mask_size={"height": 16, "width": 16})
    return Sam2Model(config), Sam2Processor(processor)


def eomt():
    from transformers import EomtConfig, EomtForUniversalSegmentation, EomtImageProcessor

    config = EomtConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=64,
        num_blocks=1,
        num_queries=6,
        num_upscale_blocks=1,
        num_labels=3,
    )
    sizes = {"size": {"shortest_edge": 64, "longest_edge": 64}, "do_pad": True}
    return EomtForUniversalSegmentation(config), EomtImageProcessor(**sizes)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each model, as it would be downloaded."""
    found = {}
    for make in (sam, sam2, eomt):
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp(make.__name__)
        for part in make():
            part.save_pretrained(folder)
        found[make.__name__] = folder
    return found


def build(name, folder, **masks):
    rules = {"POINTS": 4, "BATCH": 5, "IOU": 0.0, "STABILITY": 0.0, "SCORE": 0.0, **masks}
    keys = ["MODEL.DEVICE", "cpu", "TEST.REGIONS.NAME", name, "TEST.REGIONS.MODEL", folder]
    for key, value in rules.items():
        keys += [f"TEST.REGIONS.MASKS.{key}", value]
    cfg = load_config("configs/quickstart/dense_clip.yaml", keys)
    (stage,) = build_stages(cfg, Foreign())
    return stage.proposer


@pytest.mark.parametrize("name", ["sam", "sam2", "eomt"])
def test_masks_of_a_folder_are_regions_of_the_image(name, folders):
    proposer = build(name, folders[name])
    assert isinstance(proposer, EomtMasks if name == "eomt" else SamMasks)
    masks = proposer.masks(IMAGE)
    assert masks.shape[1:] == (48, 40) and masks.dtype == torch.bool and len(masks) > 1
    regions = proposer([IMAGE, IMAGE.float()])
    assert torch.equal(*regions)
    assert torch.equal(regions[0], partition(masks))
    strict = build(name, folders[name], IOU=1.0, SCORE=1.0)
    assert strict.masks(IMAGE).shape == (0, 48, 40)
    assert (strict([IMAGE])[0] == -1).all()


@pytest.mark.parametrize("name", ["sam", "sam2"])
def test_points_go_through_in_any_number_at_a_time(name, folders):
    few, many = (build(name, folders[name], BATCH=batch) for batch in (3, 100))
    assert torch.equal(few.masks(IMAGE), many.masks(IMAGE))


class Squares(torch.nn.Module):
    """In place of a model of SAM 2: squares of three sizes around each point."""

    def __init__(self):
        super().__init__()
        self.seen = torch.nn.Parameter(torch.zeros(()))
        self.asked = []

    def get_image_embeddings(self, pixels):
        return [pixels]

    def forward(self, image_embeddings, input_points, multimask_output):
        self.asked.append(input_points)
        places = torch.arange(16) * 4.0 + 2
        masks = []
        for x, y in input_points[0, :, 0].tolist():
            distance = torch.maximum((places[:, None] - y).abs(), (places - x).abs())
            masks.append(torch.stack([(side - distance) * 100 for side in (5.0, 9.0, 17.0)]))
        quality = torch.tensor([0.9, 0.95, 0.3]).expand(1, len(masks), 3)
        return type("Answer", (), {"pred_masks": torch.stack(masks)[None], "iou_scores": quality})


def test_good_masks_around_the_points():
    model, processor = Squares(), sam2()[1]
    rules = MaskRules(points=2, batch=3, iou=0.5, stability=0.9, duplicates=0.7)
    masks = SamMasks(model, processor, rules).masks(torch.zeros(3, 128, 64, dtype=torch.uint8))
    points = torch.cat(model.asked, dim=1)[0, :, 0]
    assert points.tolist() == [[16, 16], [48, 16], [16, 48], [48, 48]]  # of 64 x 64
    assert masks.shape == (8, 128, 64)  # of the two sizes that are good enough
    areas = masks.sum(dim=(1, 2))
    assert (areas[:4] > areas[4:].max()).all()  # best first
    assert masks[0, 32, 16] and not masks[0, 32, 48] and not masks[0, 96, 16]


def test_points_are_the_centres_of_cells():
    assert grid_of_points(2, 40, 80).tolist() == [[20, 10], [60, 10], [20, 30], [60, 30]]


def test_stability():
    logits = torch.tensor([[[2.0, 0.5, -0.5, -3.0]], [[-2.0, -2.0, -2.0, -2.0]]])
    assert stability(logits).tolist() == pytest.approx([1 / 3, 0])


def test_distinct_masks_against_the_reference():
    generator = torch.Generator().manual_seed(0)
    for most in (0.2, 0.5, 0.9):
        masks = torch.rand(12, 6, 5, generator=generator) < 0.5
        masks[3], masks[7] = masks[2], False
        quality = torch.rand(12, generator=generator).mul(4).round()
        found = distinct(masks, quality, most)
        assert found.tolist() == reference.distinct_masks(masks, quality, most)
    assert distinct(torch.zeros(0, 2, 2, dtype=torch.bool), torch.zeros(0), 0.5).tolist() == []


def test_wrong_models(folders, tmp_path):
    with pytest.raises(ValueError, match="TEST.REGIONS.MODEL: got '', expected a folder of"):
        build("sam", "")
    with pytest.raises(ValueError, match="a model of type 'sam2', expected 'sam' "):
        build("sam", folders["sam2"])
    with pytest.raises(FileNotFoundError, match="is no folder with config.json.*sam-vit-base"):
        build("sam", tmp_path)
    model, processor = eomt()
    processor.do_split_image = True
    with pytest.raises(ValueError, match="TEST.REGIONS.MODEL: got a semantic model"):
        EomtMasks(model, processor, 0.5)
    with pytest.raises(ValueError, match="MASKS.IOU: got 2, expected 0 to 1"):
        MaskRules(points=2, batch=3, iou=2, stability=0.9, duplicates=0.7)
