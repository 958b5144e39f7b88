"""Options: dataclasses whose fields are keys of the config, in lower case.

They have no defaults, which stand with the keys, and take what the keys' rules allow. Classes that
have options are so usable without a config.
"""

from dataclasses import fields
from typing import Any, TypeVar

from fvcore.common.config import CfgNode

Options = TypeVar("Options")


def options_of(kind: type[Options], node: CfgNode, **given: Any) -> Options:
    """Options whose fields are a node's keys in lower case, but for those that are given."""
    names = [field.name for field in fields(kind) if field.name not in given]  # type: ignore[arg-type]
    values = {name: getattr(node, name.upper()) for name in names}
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}, **given)
