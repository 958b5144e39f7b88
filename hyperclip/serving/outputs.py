"""An answer as a program reads it: JSON with COCO's masks, a label map, Label Studio's task."""

import io
import json
from dataclasses import dataclass
from typing import Any

from ..prediction import Prediction
from ..visualization import label_image
from ..vocabulary import Vocabulary
from .fields import Fields


@dataclass(frozen=True)
class Output:
    """The content of a response and its type, and the hash by which the image is known now."""

    content: bytes
    type: str
    image_hash: str


def output_of(
    prediction: Prediction, vocabulary: Vocabulary, fields: Fields, image_hash: str
) -> Output:
    """What the fields ask for; ValueError for names that its format cannot hold."""
    if fields.output == "png":
        file = io.BytesIO()
        label_image(prediction.labels, len(prediction.names)).save(file, format="PNG")
        return Output(file.getvalue(), "image/png", image_hash)
    make = _json if fields.output == "json" else _label_studio
    content = {"image_hash": image_hash, **make(prediction, vocabulary, fields)}
    # no NaN or infinity: the predictor refuses these
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    return Output(text.encode(), "application/json", image_hash)


def _json(prediction: Prediction, vocabulary: Vocabulary, fields: Fields) -> dict[str, Any]:
    document = prediction.to_coco(instances=fields.instances, smallest=fields.smallest)
    image, table = document["images"][0], prediction.to_table()
    asked = prediction.asked or [[name] for name in prediction.names]
    classes = [{**row._asdict(), "asked": names} for row, names in zip(table, asked, strict=True)]
    for mask in document["annotations"]:
        mask["name"] = prediction.names[mask["category_id"] - 1]
        del mask["image_id"]
    return {
        "width": image["width"],
        "height": image["height"],
        "classes": classes,
        "no_class": float((prediction.labels < 0).mean()),
        "masks": document["annotations"],
        "warnings": [vocabulary.doubt] if vocabulary.doubt else [],
    }


def _label_studio(prediction: Prediction, vocabulary: Vocabulary, fields: Fields) -> dict[str, Any]:
    name = fields.image_name
    made = prediction.to_label_studio(name, instances=fields.instances, smallest=fields.smallest)
    return {"task": made.task, "config": made.config}
