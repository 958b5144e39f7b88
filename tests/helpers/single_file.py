"""The names that Stable Diffusion's authors gave its weights, for models that diffusers has
built.
"""

from __future__ import annotations

import torch

UNET = {
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "conv_in.": "input_blocks.0.0.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
    "mid_block.attentions.0.": "middle_block.1.",
    "mid_block.resnets.0.": "middle_block.0.",
    "mid_block.resnets.1.": "middle_block.2.",
}
RESNET = {
    "norm1.": "in_layers.0.",
    "conv1.": "in_layers.2.",
    "norm2.": "out_layers.0.",
    "conv2.": "out_layers.3.",
    "time_emb_proj.": "emb_layers.1.",
    "conv_shortcut.": "skip_connection.",
}
VAE = {
    "conv_shortcut": "nin_shortcut",
    "conv_norm_out": "norm_out",
    "mid_block.attentions.0.": "mid.attn_1.",
}
ATTENTION = {
    "group_norm.": "norm.",
    "to_q.": "q.",
    "to_k.": "k.",
    "to_v.": "v.",
    "to_out.0.": "proj_out.",
}
TEXT = {
    "encoder.layers.": "transformer.resblocks.",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    ".fc1.": ".c_fc.",
    ".fc2.": ".c_proj.",
    ".mlp.": ".mlp.",
    "final_layer_norm.": "ln_final.",
    "self_attn.out_proj": "attn.out_proj",
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
}


def replace(name, table):
    for new, old in table.items():
        name = name.replace(new, old)
    return name


def unet_names():
    """Beginnings of names of the four levels of a UNet."""
    table = dict(UNET)
    for i in range(4):
        for j in range(3):
            if j < 2:
                table[f"down_blocks.{i}.resnets.{j}."] = f"input_blocks.{3 * i + j + 1}.0."
                table[f"down_blocks.{i}.attentions.{j}."] = f"input_blocks.{3 * i + j + 1}.1."
            table[f"up_blocks.{i}.resnets.{j}."] = f"output_blocks.{3 * i + j}.0."
            table[f"up_blocks.{i}.attentions.{j}."] = f"output_blocks.{3 * i + j}.1."
        table[f"down_blocks.{i}.downsamplers.0.conv."] = f"input_blocks.{3 * (i + 1)}.0.op."
        table[f"up_blocks.{i}.upsamplers.0."] = f"output_blocks.{3 * i + 2}.{1 if i == 0 else 2}."
    return table


def vae_names():
    """Beginnings of names of the four levels of an autoencoder."""
    table = dict(VAE)
    for i in range(4):
        for j in range(3):
            table[f"down_blocks.{i}.resnets.{j}."] = f"down.{i}.block.{j}."
            table[f"up_blocks.{i}.resnets.{j}."] = f"up.{3 - i}.block.{j}."
        table[f"down_blocks.{i}.downsamplers.0."] = f"down.{i}.downsample."
        table[f"up_blocks.{i}.upsamplers.0."] = f"up.{3 - i}.upsample."
        table[f"mid_block.resnets.{i}."] = f"mid.block_{i + 1}."
    return table


def original_state(unet, vae, text, version):
    """The state dict of a single file: of diffusers' modules, and transformers' text encoder of
    version "1.5" or "2.1".
    """
    state = {}
    for name, value in unet.state_dict().items():
        new = replace(name, unet_names())
        state["model.diffusion_model." + (replace(new, RESNET) if ".resnets." in name else new)] = (
            value
        )
    for name, value in vae.state_dict().items():
        new = replace(name, vae_names())
        if ".attentions." in name:
            new = replace(new, ATTENTION)
            value = value[..., None, None] if value.ndim == 2 else value
        state["first_stage_model." + new] = value
    own = {name.removeprefix("text_model."): value for name, value in text.state_dict().items()}
    if version == "1.5":
        return state | {
            "cond_stage_model.transformer.text_model." + name: value for name, value in own.items()
        }
    for name, value in own.items():
        if ".self_attn." not in name or "out_proj" in name:
            state["cond_stage_model.model." + replace(name, TEXT)] = value
        elif ".q_proj." in name:
            parts = [own[name.replace("q_proj", f"{x}_proj")] for x in "qkv"]
            target = (
                replace(name.partition(".self_attn.")[0], TEXT)
                + ".attn.in_proj_"
                + name.rpartition(".")[2]
            )
            state["cond_stage_model.model." + target] = torch.cat(parts)
    return state
