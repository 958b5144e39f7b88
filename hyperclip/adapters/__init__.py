"""How CLIP is fine-tuned: adapters as torch parametrizations of its attention weights.

Every adapter replaces a weight, ``attn.in_proj_weight`` (3D, D) of a block above all, or whatever
holds q, k and v in towers of another family, by a function of itself that is the identity at the
start, so that CLIP is unchanged; ``merge`` writes the function's value back as a plain weight.
"""

from .attach import adapter_names, adapters, attentions, merge, parameter_table, prepare_finetuning
from .attention_weights import LowRank, Rotation, TrainedProjections
from .base import ADAPTER_REGISTRY, Adapter, AdapterOptions, Site
from .radius import RadiusAdjustment
from .shared_relations import RelatedRadius, SharedBlocks
