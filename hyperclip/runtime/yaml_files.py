"""Reading YAML in which no key may be there twice."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

_WORDS = ("tag:yaml.org,2002:merge", "tag:yaml.org,2002:value")
"""Tags of "<<" and "=", keys that no constructor reads."""


class DuplicateKeyError(yaml.YAMLError):
    """A mapping has a key twice. Plain YAML loaders keep the last value and say nothing."""


class UniqueKeyLoader(yaml.SafeLoader):
    """``yaml.SafeLoader`` that refuses a key twice by a DuplicateKeyError, which names both lines;
    what "<<" merges may still be overridden.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Check the keys as they were written: later, merged keys are among them."""
        node = super().compose_mapping_node(anchor)
        lines: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue  # no key of a Python dict: refused when the mapping is made
            # Equal as keys of a dict, that is also 1, 0x1, 1.0 and true.
            key = key_node.value if key_node.tag in _WORDS else self.construct_object(key_node)
            line = key_node.start_mark.line + 1
            if key in lines:
                raise DuplicateKeyError(
                    f"key {key_node.value!r} is there twice, in line {lines[key]} and in line "
                    f"{line}. Keep one of them"
                )
            lines[key] = line
        return node


def load_yaml(
    path: str | Path, what: str = "YAML file", loader: type[UniqueKeyLoader] = UniqueKeyLoader
) -> Any:
    """Read a YAML file, ``what`` in messages, with plain values only, in UTF-8 with or without a
    byte order mark. FileNotFoundError if it is not there; ValueError, one line, if it is not YAML,
    not UTF-8, or has a key twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{what}: got {str(path)!r}, which does not exist or is no file")
    try:
        return yaml.load(path.read_text(encoding="utf-8-sig"), loader)
    except DuplicateKeyError as error:
        raise ValueError(f"{what} {str(path)!r}: {error}") from error
    # YAML's own errors, not UTF-8, a value that its tag does not fit, nesting without end
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{what} {str(path)!r}: not valid YAML in UTF-8 ({reason}). Mend that place, or save "
            "the file as UTF-8"
        ) from error
