"""The table of datasets in Detectron2's catalogues, and what a model is asked on each dataset."""

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

from collections.abc import Iterable

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..labels import IGNORE
from ..vocabulary import Vocabulary, load_vocabulary
from .records import load_records
from .registry import DATASETS, DatasetSpec, find_dataset


def vocabulary_of(dataset: str, family: str, file: str = "") -> Vocabulary:
    """What a model is asked on a registered dataset: classes, of a class file if one is named, then
    background words to fold.

    Raises ValueError for a dataset that nobody registered, or a family that is none.
    """
    spec = spec_of(dataset)
    vocabulary = load_vocabulary(file) if file else spec.vocabulary(family)
    return vocabulary.with_background_prompts() if spec.background == "fold" else vocabulary


def registered_names(names: Iterable[str]) -> list[str]:
    """Full names of datasets by name or alias, each once; ValueError if one is not registered."""
    known = set(DatasetCatalog.list())
    return list(dict.fromkeys(name if name in known else find_dataset(name).name for name in names))


def spec_of(dataset: str) -> DatasetSpec:
    """Description of a registered dataset; its ``stuff_classes`` if only Detectron2 knows it."""
    if dataset in DATASETS or dataset not in DatasetCatalog.list():
        return find_dataset(dataset)
    meta = MetadataCatalog.get(dataset)
    classes = {"catseg": Vocabulary.from_names(list(meta.stuff_classes), dataset)}
    ignore = meta.get("ignore_label", IGNORE)
    return DatasetSpec(dataset, dataset, (), "none", (), classes, "", ignore, benchmark=False)


def register(spec: DatasetSpec) -> None:
    """Add a dataset to the table and to Detectron2's catalogues, without reading its files.

    Raises ValueError if the name or the alias is taken by another one.
    """
    names = {spec.name, spec.alias}
    taken = [s.name for s in DATASETS.values() if names & {s.name, s.alias} and s != spec]
    if spec.name not in DATASETS and spec.name in DatasetCatalog.list():
        taken.append(spec.name)
    if taken:
        problem = f"that name is already taken by {taken[0]!r}"
        raise ValueError(f"dataset {spec.name!r} (alias {spec.alias!r}): {problem}")
    DATASETS[spec.name] = spec
    if spec.name not in DatasetCatalog.list():
        DatasetCatalog.register(spec.name, lambda: load_records(spec))
        classes = {"stuff_classes": spec.label_names, "ignore_label": spec.ignore}
        MetadataCatalog.get(spec.name).set(evaluator_type="sem_seg", **classes)


def unregister(spec: DatasetSpec) -> None:
    """Take a dataset out of the table and of Detectron2's catalogues, so that its name is free."""
    DATASETS.pop(spec.name)
    DatasetCatalog.remove(spec.name)
    MetadataCatalog.remove(spec.name)


for _spec in list(DATASETS.values()):
    register(_spec)
