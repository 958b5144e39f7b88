"""Small open_clip models of every family with formula-made weights, in folders as open_clip writes
them, and a multilingual Hugging Face text encoder with its tokenizer.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from hyperclip.clip.building import build_model
from safetensors.torch import save_file

from tests.golden.fake_state import fill_state

TEXT = {"context_length": 16, "width": 32, "heads": 2, "layers": 2}
VIT = {"layers": 3, "width": 32, "patch_size": 8, "image_size": 32, "head_width": 16}
VISION = {
    "vit": VIT,
    "resnet": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64, "head_width": 256},
    "convnext": {
        "timm_model_name": "convnext_atto",
        "timm_pool": "",
        "timm_proj": "linear",
        "timm_drop_path": 0.1,
        "image_size": 64,
    },
    "fastvit": {
        "timm_model_name": "fastvit_t8",
        "timm_pool": "avg",
        "timm_proj": None,
        "image_size": 64,
    },
    "eva": {
        "timm_model_name": "eva02_tiny_patch14_224",
        "timm_pool": "token",
        "timm_proj": None,
        "image_size": 224,
    },
    "siglip": {
        "timm_model_name": "vit_tiny_patch16_224",
        "timm_pool": "map",
        "timm_proj": "none",
        "image_size": 224,
    },
}
"""Image towers; all but SigLIP's, whose width is that of its trunk, embed into 24 numbers."""
WIDTHS = {"siglip": 192}
TEXTS = {
    "clip": (False, TEXT),
    "custom": (True, TEXT),
    "eos": (True, {**TEXT, "pool_type": "eos", "eos_id": 49407}),
    "siglip": (True, {**TEXT, "no_causal_mask": True, "pool_type": "last", "proj_bias": True}),
    "mean": (True, {"hf_pooler_type": "mean_pooler"}),
    "cls": (True, {"hf_pooler_type": "cls_pooler", "hf_proj_type": "linear"}),
}
"""Text towers: whether they are modules of their own, and their settings."""
WORDS = (
    "a",
    "A",
    "photo",
    "of",
    "in",
    "the",
    "scene",
    "dog",
    "road",
    "собака",
    "дорога",
    "犬",
    "道路",
    "sky",
)


def write_folder(folder: Path, vision: str, text: str = "clip", **preprocessing: list) -> str:
    """Write a model of two families into a folder with formula-made weights; its name."""
    folder.mkdir(parents=True, exist_ok=True)
    custom, settings = TEXTS[text]
    if text in ("mean", "cls"):
        write_xlm_roberta(folder / "words")
        settings = {**settings, "hf_model_name": "words", "hf_tokenizer_name": "words"}
        settings["context_length"] = 16
    model_cfg = {"embed_dim": WIDTHS.get(vision, 24), "vision_cfg": VISION[vision]}
    model_cfg |= {"text_cfg": settings, "custom_text": custom}
    content = {"model_cfg": model_cfg, "preprocess_cfg": preprocessing}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    model = build_model(str(folder), quick_gelu=False)
    state = {name: value.contiguous() for name, value in fill_state(model.state_dict()).items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return str(folder)


def write_xlm_roberta(folder: Path) -> None:
    """A text encoder of XLM-RoBERTa's kind and its tokenizer: words, else single letters."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, XLMRobertaConfig

    letters = sorted({letter for word in WORDS for letter in word} | set("abcdefghijklmnop▁"))
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0)]
    pieces += [(f"▁{word}", -2.0) for word in WORDS] + [(letter, -8.0) for letter in letters]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    ends = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=ends
    )
    names = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "cls": "<s>"}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        sep_token="</s>",
        **{f"{key}_token": value for key, value in names.items()},
    )
    fast.save_pretrained(folder)
    XLMRobertaConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=34,
        type_vocab_size=1,
        pad_token_id=1,
    ).save_pretrained(folder)


def random_images(tower, height: int = 2, width: int = 3) -> torch.Tensor:
    """Two images of so many cells of a tower."""
    size = (height * tower.stride[0], width * tower.stride[1])
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(3))
