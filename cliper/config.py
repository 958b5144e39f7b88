"""The configuration keys of CLIPer, with the released code's defaults, and what they may be."""

from detectron2.config import CfgNode
from hyperclip.config.key_rules import ANY, POSITIVE, SHARE, KeyRules

_BOUNDS = {
    "SIZE MAX_SIZE WINDOW_STRIDE DIFFUSION.STEPS FEATURES.MAX_SIZE": POSITIVE,
    "SCORE_THRESHOLD RESIDUAL SELECT_LAYER AVERAGE_WEIGHT": ANY,
    "ATTENTION_THRESHOLD": SHARE,
    "REFINER.THRESHOLD": (-1, 1),
    "SINKHORN": (-1, float("inf")),
    "DIFFUSION.SEED": (0, 2**63 - 1),
}
_CHOICES = {
    "ATTENTION": "fused vanilla q-q k-k v-v identity proxy clip",
    "CENTER": "mean max",
    "AVERAGE": "all early none",
    "PROPAGATION": "columns rows none",
    "PROTOCOL": "abstain argmax",
    "REFINER.FUSION": "SFSA mean selection",
    "DIFFUSION.NOISE": "seeded none",
    "DIFFUSION.RESIZE": "nearest bilinear",
}
CLIPER_RULES = KeyRules(
    inputs=("MODEL.CLIPER.DIFFUSION.MODEL", "MODEL.CLIPER.FEATURES.WEIGHTS"),
    outputs=("MODEL.CLIPER.DIFFUSION.CACHE",),
    bounds={f"MODEL.CLIPER.{key}": pair for keys, pair in _BOUNDS.items() for key in keys.split()},
    choices={f"MODEL.CLIPER.{key}": tuple(words.split()) for key, words in _CHOICES.items()},
    not_negative=True,
)
"""What the values of CLIPer's keys may be."""


def add_cliper_config(cfg: CfgNode) -> None:
    """Add CLIPer's keys to a config, in place. HyperCLIP's keys choose CLIP and the prompts."""
    cfg.MODEL.CLIPER = node = CfgNode()
    node.SIZE = 336  # shorter side of the image that CLIP sees, in pixels
    node.MAX_SIZE = 2560  # its longer side is at most this
    node.HALF = True  # on a GPU, run CLIP and the diffusion model in float16; sums stay in float32
    _add_fusion_keys(node)

    # what is no class, for vocabularies that bring no negatives of their own
    node.NEGATIVES = ["background"]
    node.MEAN_NEGATIVE = True  # add the mean of the classes' embeddings to the negatives

    # side of the crops whose predictions are averaged with the whole image's, in pixels; 0 = none
    node.WINDOW = 0
    node.WINDOW_STRIDE = 112  # distance of neighbouring crops, at most WINDOW

    # where no background exists, "abstain" leaves pixels below the thresholds without a class (as
    # released), "argmax" gives all of them one
    node.PROTOCOL = "abstain"
    # classes whose score is not above this are left out (scores reach about 2)
    node.SCORE_THRESHOLD = 0.0
    # scores below this become 0, and pixels without another one get no class; 0 = a background
    # score (1 - best)^2 competes instead
    node.BACKGROUND_THRESHOLD = 0.0
    node.NORMALIZE = False  # scale each class's map to 0..1 before the thresholds
    _add_refiner_keys(node)


def _add_fusion_keys(node: CfgNode) -> None:
    node.ATTENTION = "fused"  # fused, vanilla, q-q, k-k, v-v, identity, proxy (from FEATURES), clip
    # rounds of column and row normalisation of the fused map; -1 = k + 1 for layer k
    node.SINKHORN = -1
    node.CENTER = "mean"  # what is subtracted from its columns: their mean or max
    node.CENTER_SCALE = 1.0  # times this; below 1 for max
    node.RESIDUAL = 0.0  # multiple of a layer's embedding added behind the last block's attention
    # round position embeddings to float16, as the released code does even on a CPU
    node.HALF_POSITIONS = False
    node.LOGIT_SCALE = 100.0  # factor of the cosines before the softmax; 0 = CLIP's own
    node.SELECT_LAYER = -1  # layer that is propagated along the fused map, from the end
    node.AVERAGE = "all"  # layers whose mean is added: all, early (all but the last), none
    node.AVERAGE_WEIGHT = 1.0  # weight of that mean
    # share of a class's largest probability below which it is cut, before propagation
    node.ATTENTION_THRESHOLD = 0.2
    node.PROPAGATION = "columns"  # along columns (as released) or rows of the fused map, or none


def _add_refiner_keys(node: CfgNode) -> None:
    node.REFINER = CfgNode()
    # none, diffusion, features, or one registered in REFINER_REGISTRY
    node.REFINER.NAME = "diffusion"
    # of several attention maps: SFSA (their product, the first one outermost), mean, selection
    node.REFINER.FUSION = "SFSA"
    node.REFINER.INDEX = 1  # the map of "selection"
    # share of a column's largest entry below which it is cut; -1 = ATTENTION_THRESHOLD
    node.REFINER.THRESHOLD = -1.0

    node.DIFFUSION = CfgNode()
    # sd-1.4, sd-1.5, sd-2.1, a hub id, a local folder in diffusers' format, or one file
    node.DIFFUSION.MODEL = "sd-2.1"
    node.DIFFUSION.REVISION = ""  # of a hub id; "" = the pinned one, or main
    # self-attention layers by name or unambiguous beginning of it, in the order of their maps
    node.DIFFUSION.LAYERS = ["up_blocks.3.attentions.1", "up_blocks.3.attentions.0"]
    # index into the scheduler's time steps; with PNDM and 50 steps, 45 is t = 101
    node.DIFFUSION.TIME_STEP = 45
    node.DIFFUSION.STEPS = 50  # time steps that the scheduler makes
    node.DIFFUSION.NOISE = "seeded"  # the same noise for every image, or none
    node.DIFFUSION.SEED = 0  # of that noise, which the released code does not fix
    # of the image to the model's square: nearest (as released) or bilinear (anti-aliased)
    node.DIFFUSION.RESIZE = "nearest"
    node.DIFFUSION.CACHE = ""  # folder in which latents are kept between runs; "" = none

    node.FEATURES = CfgNode()
    node.FEATURES.MODEL = "vit_base_patch8_224.dino"  # a vision transformer of timm
    node.FEATURES.WEIGHTS = ""  # a local file; "" = timm's own, "none" = random
    node.FEATURES.MAX_SIZE = 1024  # images with a longer side are scaled down to it
