"""What stands between a system's scores and its labels, for any system: examples, a memory bank,
refiners and regions.

encode -> scores -> [examples] -> [bank] -> [refine] -> [regions] -> labels. A stage that is off
leaves every bit as it was.
"""

from . import guided  # noqa: F401  (registers it)
from .bank import Memory, MemoryOptions
from .bank_file import Bank, GrowingBank, read_bank, write_bank
from .cutting import Cutter
from .examples import Example, Examples, ExampleStore, encode_example
from .model_print import ModelPrint
from .pruning import Presence
from .refining import REFINER_REGISTRY, GridRefinement, Refinement, Refiner
from .regions import REGIONS_REGISTRY, Proposer, RecordProposer
from .stage import Asked, Stage
from .staged import (
    Refine,
    Regions,
    Staged,
    as_seen_by,
    examples_of,
    with_examples,
    with_stages,
)
