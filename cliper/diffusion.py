"""Self-attention of a latent diffusion model, read while it denoises a lightly noised image.

The model has diffusers' ``AutoencoderKL`` and ``UNet2DConditionModel`` or ``UNet2DModel``. The UNet
is stopped at the last projection that is wanted; nothing in it is patched. Shapes: B images, A
heads, N tokens, d numbers of a head. Source: CLIPer (ICCV 2025); iSeg (2024) for the maps.
"""

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from hyperclip.clip.text_cache_key import bit_sums
from hyperclip.runtime.finite import FiniteCheck
from torch import Tensor, nn

from .affinity import StreamedMaps
from .config import CLIPER_RULES
from .latents import LatentsCache, digest
from .pretrained import LoadedDiffusion


@dataclass(frozen=True)
class DiffusionOptions:
    """Where and how the maps are read; MODEL.CLIPER.DIFFUSION's keys of the same names explain it.
    ValueError for a value that its key may not have.
    """

    layers: Sequence[str]
    time_step: int
    steps: int
    noise: str
    seed: int
    resize: str

    def __post_init__(self) -> None:
        CLIPER_RULES.require("MODEL.CLIPER.DIFFUSION.", vars(self))


class DiffusionAttention(nn.Module):
    """Maps of an image from a diffusion model's self-attention.

    Args:
        parts: of the model; of the autoencoder only the encoder is used.
        cache: folder in which latents are kept.
    Attributes:
        count: number M of maps, the heads of all layers. size: (H, W) of the images it sees.
    Raises:
        ValueError: a layer or time step that is not there, or parts that do not fit each other.
    """

    vae: Any
    unet: Any
    prompt: Tensor | None

    def __init__(
        self, parts: LoadedDiffusion, options: DiffusionOptions, cache: Path | None = None
    ) -> None:
        super().__init__()
        self.vae, self.unet, self.scheduler, prompt, self.source = parts
        self.cache = LatentsCache(cache) if cache is not None else None
        self.options, self.layers = options, find_layers(self.unet, options.layers)
        self.register_buffer("prompt", prompt, persistent=False)
        sides = check_parts(parts)
        self.time = chosen_time(self.scheduler, options)
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.channels = self.vae.config.latent_channels
        self.size = tuple(self.factor * side for side in sides)
        self.count = sum(attention.heads for attention in self.layers.values())
        self._rehearse()

    @torch.no_grad()
    def forward(self, images: Sequence[Tensor]) -> list[StreamedMaps]:
        """Maps of images (3, H, W), 0..255, of any sizes; heads of the first layer come first."""
        latents = torch.cat([self.latents(self._square(image)) for image in images])
        pairs = self.queries_and_keys(self.add_noise(latents))
        grid = _grid(pairs, latents)
        scales = [layer.scale for layer in self.layers.values() for _ in range(layer.heads)]
        maps = []
        for b in range(len(images)):
            queries = [head for q, _ in pairs for head in q[b]]
            keys = [head for _, k in pairs for head in k[b]]
            maps.append(StreamedMaps(queries, keys, scales, grid))
        return maps

    def latents(self, square: Tensor) -> Tensor:
        """Scaled posterior mean (1, C, h, w) of a square image (3, H, W) in -1..1, maybe cached."""
        if self.cache is None:
            return self._encode(square)
        where, fast = square.device.type, torch.is_autocast_enabled(square.device.type)
        precision = torch.get_autocast_dtype(where) if fast else square.dtype
        key = digest({"image": square}, self._encoder_digest(), where, precision, torch.__version__)
        shape = (1, self.channels, square.shape[1] // self.factor, square.shape[2] // self.factor)

        def compute() -> Tensor:
            latents = self._encode(square)  # NaN in the cache would outlive the weights
            FiniteCheck().add("the latents of the image", latents).require(self)
            return latents

        return self.cache.get(key, shape, square, compute)

    def _encoder_digest(self) -> str:
        """Of the encoder's settings and bits' sums; version counters miss ``p.data.add_``."""
        weights, used = self.vae.state_dict(), ("encoder.", "quant_conv.")
        state = {name: value for name, value in weights.items() if name.startswith(used)}
        kinds = [(name, value.dtype, value.shape) for name, value in state.items()]
        settings = sorted((k, repr(v)) for k, v in self.vae.config.items() if not k.startswith("_"))
        sums = torch.cat([part for value in state.values() for part in bit_sums(value)])
        return digest({"sums": sums}, kinds, settings)

    def _encode(self, square: Tensor) -> Tensor:
        return self.vae.encode(square[None]).latent_dist.mean * self.vae.config.scaling_factor

    def add_noise(self, latents: Tensor, noise: Tensor | None = None) -> Tensor:
        """Latents (B, C, h, w) at the chosen time step; noise (1, C, h, w), or the options'."""
        if noise is None:
            # drawn on the CPU, so that every device gets the same
            generator = torch.Generator().manual_seed(self.options.seed)
            noise = torch.randn(latents[:1].shape, generator=generator)
            if self.options.noise == "none":
                noise.zero_()
        noise = noise.to(latents).expand_as(latents)
        return self.scheduler.add_noise(latents, noise, self.time[None])

    def queries_and_keys(
        self, noisy: Tensor, unet: Callable[..., object] | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """Queries and keys (B, A, N, d) of each layer for noisy latents (B, C, h, w), while the
        UNet, or what calls its modules, runs.
        """
        run = unet or self.unet
        latents, condition = self.scheduler.scale_model_input(noisy, self.time), {}
        if self.prompt is not None:
            prompt = self.prompt.to(latents).expand(len(latents), -1, -1)
            condition = {"encoder_hidden_states": prompt}
        projections = [m for layer in self.layers.values() for m in (layer.to_q, layer.to_k)]
        heads = [layer.heads for layer in self.layers.values() for _ in "qk"]
        outputs = run_until(lambda: run(latents, self.time, **condition), projections)
        split = [
            x.unflatten(-1, (count, -1)).transpose(1, 2)
            for x, count in zip(outputs, heads, strict=True)
        ]
        return list(zip(split[0::2], split[1::2], strict=True))

    def _rehearse(self) -> None:
        """Run the parts on PyTorch's meta device, so that whatever does not fit shows now."""
        dtype = next(self.unet.parameters()).dtype
        image = torch.empty(1, 3, *self.size, dtype=dtype, device="meta")
        try:
            moments = on_meta(self.vae.encoder)(image)
            latents = image.new_empty(1, self.channels, *moments.shape[2:])
            self.add_noise(torch.zeros(latents.shape[:2] + (1, 1)))
            pairs = self.queries_and_keys(latents, on_meta(self.unet))
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            prompt = None if self.prompt is None else tuple(self.prompt.shape)
            raise ValueError(
                f"MODEL.CLIPER.DIFFUSION.MODEL {self.source}: cannot be run on an image of "
                f"{self.size} with a prompt of {prompt} alone ({type(error).__name__}: {reason}). "
                "Expected a Stable Diffusion 1 or 2 that makes images from text"
            ) from error
        _grid(pairs, latents)

    def _square(self, image: Tensor) -> Tensor:
        reference = next(self.unet.parameters())
        antialias = self.options.resize == "bilinear"
        x = image.to(reference.device).float()[None] / 255
        x = F.interpolate(x, size=self.size, mode=self.options.resize, antialias=antialias)
        return (2 * x[0] - 1).to(reference.dtype)


_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
"""The lock of each list of modules, by the first: a hook is not to be set while another runs."""
_locks_guard = threading.Lock()


class _Finished(Exception):
    """Everything that was wanted has been seen."""


def run_until(run: Callable[[], object], modules: list[nn.Module]) -> list[Tensor]:
    """Call ``run()`` until every module has given its output once, then stop it; these outputs.

    Other threads may use the modules at the same time: what they compute is theirs. Of several that
    want outputs of the same modules, one at a time has them.
    """
    outputs: dict[int, Tensor] = {}
    caller = threading.get_ident()

    def keep(index: int, module: nn.Module, inputs: Any, output: Tensor) -> None:
        if threading.get_ident() != caller:
            return
        outputs[index] = output
        if len(outputs) == len(modules):
            raise _Finished

    with _locks_guard:
        lock = _locks.setdefault(modules[0], threading.RLock())
    with lock, contextlib.ExitStack() as hooks, contextlib.suppress(_Finished):
        for i, module in enumerate(modules):
            hooks.enter_context(module.register_forward_hook(partial(keep, i)))
        run()
    return [outputs[i] for i in range(len(modules))]


def on_meta(module: nn.Module) -> Callable[..., Any]:
    """A module's forward pass on meta tensors: shapes and errors without values."""
    tensors = (*module.named_parameters(), *module.named_buffers())
    state = {name: value.to("meta") for name, value in tensors}
    return lambda *args, **kwargs: torch.func.functional_call(module, state, args, kwargs)


def chosen_time(scheduler: Any, options: DiffusionOptions) -> Tensor:
    """The time step of the options, a scalar; ValueError if training had no such step."""
    trained = scheduler.config.num_train_timesteps
    if options.steps > trained:
        raise ValueError(
            f"MODEL.CLIPER.DIFFUSION.STEPS: got {options.steps}, expected 1 to {trained}, those of "
            "training"
        )
    scheduler.set_timesteps(options.steps)
    count = len(scheduler.timesteps)
    if options.time_step >= count:
        raise ValueError(
            f"MODEL.CLIPER.DIFFUSION.TIME_STEP: got {options.time_step}, expected an index below "
            f"{count}, the number of time steps that {type(scheduler).__name__} makes of STEPS "
            f"{options.steps}"
        )
    return scheduler.timesteps[options.time_step]


def check_parts(parts: LoadedDiffusion) -> tuple[int, int]:
    """The sides of the latents; ValueError if more than text is needed, or parts do not fit."""
    vae, unet, _, prompt, source = parts
    what, config = f"MODEL.CLIPER.DIFFUSION.MODEL {source}", unet.config
    expected, given = vae.config.latent_channels, config.in_channels
    if given != expected:
        kinds = {9: ", as for inpainting", 5: ", as for depth maps", 8: ", as for editing images"}
        raise ValueError(
            f"{what}: its UNet takes {given} channels{kinds.get(given, '')}, expected the "
            f"{expected} of its autoencoder's latents"
        )
    extras = "addition_embed_type class_embed_type num_class_embeds encoder_hid_dim_type".split()
    needs = [f"{key} {config[key]!r}" for key in extras if config.get(key)]
    if needs:
        raise ValueError(
            f"{what}: its UNet needs more than text ({', '.join(needs)}), as Stable Diffusion XL's "
            "does. Expected Stable Diffusion 1 or 2, such as sd-2.1"
        )
    width = config.get("cross_attention_dim")
    if prompt is not None and prompt.shape[-1] != width:
        raise ValueError(
            f"{what}: its text encoder gives {prompt.shape[-1]} channels, expected {width}, its "
            "UNet's"
        )
    side = config.sample_size
    sides = side if isinstance(side, (list, tuple)) and len(side) == 2 else (side, side)
    if not all(type(s) is int and s > 0 for s in sides):
        raise ValueError(
            f"{what}: unet/config.json has sample_size {side!r}, expected the side of the latents, "
            "64 for images of 512 pixels. Set it to what the model was trained with"
        )
    return sides[0], sides[1]


def find_layers(unet: nn.Module, names: Sequence[str]) -> dict[str, Any]:
    """The self-attention modules of these names, or of the only name that begins so; ValueError for
    no name, or one that fits none or several of the UNet's layers.
    """
    from diffusers.models.attention_processor import Attention

    attention = {name: m for name, m in unet.named_modules() if isinstance(m, Attention)}
    known = {name: m for name, m in attention.items() if not m.is_cross_attention}
    found: dict[str, Any] = {}
    for name in names:
        fitting = [n for n in known if n == name or n.startswith(f"{name}.")]
        if len(fitting) != 1:
            raise ValueError(
                f"MODEL.CLIPER.DIFFUSION.LAYERS: {name!r} fits {len(fitting)} self-attention "
                f"layers of the {type(unet).__name__}, expected one of {sorted(known)}"
            )
        found[fitting[0]] = known[fitting[0]]
    if len(found) != len(names) or not found:
        raise ValueError(
            f"MODEL.CLIPER.DIFFUSION.LAYERS: got {list(names)}, expected one or more different "
            "layers"
        )
    return found


def _grid(pairs: list[tuple[Tensor, Tensor]], latents: Tensor) -> tuple[int, int]:
    """Height and width of the token map, the same for every layer."""
    tokens = {q.shape[2] for q, _ in pairs}
    if len(tokens) > 1:
        raise ValueError(
            f"MODEL.CLIPER.DIFFUSION.LAYERS: got layers of {sorted(tokens)} tokens, expected "
            "layers of the same resolution"
        )
    height, width = latents.shape[-2:]
    step = round((height * width / tokens.pop()) ** 0.5)
    return height // step, width // step
