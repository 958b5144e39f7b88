from pathlib import Path

import pytest
import yaml
from hyperclip.runtime.yaml_files import UniqueKeyLoader, load_yaml


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("SOLVER: {A: 1}\nMODEL: {}\nSOLVER: {B: 2}\n", "SOLVER", (1, 3)),
        ("a:\n  b:\n    - c: 1\n      d: 2\n      c: 3\n", "c", (3, 5)),
        ("{x: 1, y: 2,\n x: 1}\n", "x", (1, 2)),
        ("name: a\n'name': b\n", "name", (1, 2)),
        ("1: road\n2: sky\n0x1: car\n", "0x1", (1, 3)),
        ("1: road\n1.0: car\n", "1.0", (1, 2)),
        ("1: road\ntrue: car\n", "true", (1, 2)),
        ("no: road\nfalse: car\n", "false", (1, 2)),
        ("a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a\n", "<<", (3, 4)),
        ("null: 1\n~: 2\n", "~", (1, 2)),
    ],
)
def test_a_key_twice_is_an_error_with_both_lines(
    tmp_path: Path, text: str, key: str, lines: tuple[int, int]
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError) as caught:
        load_yaml(path, "config")
    assert f"key {key!r} is there twice, in line {lines[0]} and in line {lines[1]}" in str(
        caught.value
    )
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_equal_keys_of_different_mappings_and_overridden_merges_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    # "deep" is made after "c" has merged it: its own keys and merged ones stand side by side by
    # then
    path.write_text(
        "a: &a {x: 1, y: 1}\nlist: [{deep: {deeper: &b {<<: *a, x: 2}}}]\nc: {<<: *b, z: 3}\n",
        encoding="utf-8-sig",
    )
    read = load_yaml(path)
    assert read["c"] == {"x": 2, "y": 1, "z": 3}
    assert read["list"] == [{"deep": {"deeper": {"x": 2, "y": 1}}}]
    assert yaml.load("{1: a, '1': b}", UniqueKeyLoader) == {1: "a", "1": "b"}


@pytest.mark.parametrize(
    "content",
    [
        b"a: [1",
        b"a: caf\xe9",
        b"a: \x00",
        b"? [1, 2]\n: 3",
        b"a: !!bool maybe",
        b"a: !!timestamp x",
        b"a: 2001-13-45",
        b"a: " + b"[" * 5000,
        b"a: !!python/object:os.system x",
        b"a: 1\n--- b: 2",
    ],
)
def test_what_is_no_yaml_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"config '.*a.yaml': not valid YAML in UTF-8 \(.+\)"
    ) as caught:
        load_yaml(path, "config")
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(FileNotFoundError, match="config: got"):
            load_yaml(path, "config")
