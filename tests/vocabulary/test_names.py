"""Names that are one to the tokenizer, classes by accident, and what becomes of synonyms."""

from __future__ import annotations

import json
import logging
import re

import pytest
import torch
import torch.nn.functional as F
from hyperclip.clip import TextEmbedder, encode_text, load_clip, tokenize
from hyperclip.config.keys import load_config
from hyperclip.data.class_lists import test_vocabulary as evaluated_vocabulary
from hyperclip.data.class_lists import train_vocabulary
from hyperclip.data.dataset_file import read_dataset_file
from hyperclip.vocabulary import Vocabulary, builtin, load_vocabulary, prompt_templates
from hyperclip.vocabulary.names import distinct, shared_names, tokens_of
from hyperclip.vocabulary.vocabulary import LISTS

TINY = "configs/quickstart/tiny_clip"


@pytest.fixture(scope="module")
def clip():
    return load_clip(TINY)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Car", "car"),
        ("traffic light", "traffic  light"),
        ("bed", "bed "),
        ("bed", "\tbed"),
        ("salt & pepper", "salt &amp; pepper"),
        ("salt & pepper", "salt &amp;amp; pepper"),
        ("car", "ｃａｒ"),
        ("café", "cafe\u0301"),
        ("traffic light", "traffic\u00a0light"),
        ("t-shirt", "t - shirt"),
        ("child's bed", "child\u2019s bed"),
    ],
)
def test_names_with_the_same_tokens_are_one(clip, one, other):
    ids = tokenize(clip.tokenizer, [f"a photo of a {one}", f"a photo of a {other}"], 32)
    assert torch.equal(ids[0], ids[1])
    message = re.escape(f"classes 0 and 2 are both {one!r} ({other!r} has the same tokens)")
    for classes in ([(one,), ("x",), (other,)], [(other, "y"), ("x",), ("Y", one)]):
        with pytest.raises(ValueError, match="classes 0 and 2 are both"):
            Vocabulary(tuple(classes))
    with pytest.raises(ValueError, match=message):
        Vocabulary.from_names([one, "x", other])
    for kind in ("negatives", "background"):
        with pytest.raises(ValueError, match=f"{kind} .*is also a class"):
            Vocabulary((("x",), (one,)), **{kind: ("wall", other)})
        with pytest.raises(ValueError, match=f"{kind} .* is there twice"):
            Vocabulary((("x",),), **{kind: ("wall", one, other)})


def test_names_that_only_look_alike_are_several():
    names = ["hot dog", "hotdog", "hot-dog", "hot dogs", "hotdog!", "hot_dog"]
    assert (
        len({tokens_of(name) for name in names}) == len(names) == len(Vocabulary.from_names(names))
    )
    assert distinct(["car", "Car", "road", " CAR "]) == ["car", "road"]


def test_the_cheap_comparison_misses_nothing():
    """Every pair with equal tokens is found, among the names of all lists in several spellings."""
    names = [
        s
        for path in sorted(LISTS.glob("*.json"))
        for synonyms in builtin(path.stem).classes
        for s in synonyms
    ][::7]
    names += [name.upper() for name in names[::3]] + [f" {name}\u3000" for name in names[::5]]
    found = {(i, k) for i, _, k, _ in shared_names([(name,) for name in names])}
    tokens = [tokens_of(name) for name in names]
    assert (
        found == {(i, k) for k in range(len(names)) for i in range(k) if tokens[i] == tokens[k]}
        and len(found) > 300
    )


@pytest.mark.parametrize("text", ["&nbsp;; dog", "dog; \ufeff", "dog; \u3000 ", "\u00a0; dog"])
def test_names_of_nothing(text):
    classes = [entry.strip(" ") for entry in text.split(";")]
    with pytest.raises(ValueError, match="empty name"):
        Vocabulary(tuple((name,) for name in classes))
    with pytest.raises(ValueError, match="one is empty"):
        Vocabulary((("road",),), negatives=tuple(classes))


def test_a_typed_name_belongs_to_one_class():
    for text in ("dog, puppy; dog, hound", "cat, pet; dog, Pet", "dog, puppy; puppy"):
        with pytest.raises(ValueError, match="classes 0 and 1 are both '(dog|pet|puppy)'"):
            Vocabulary.from_text(text)


def test_lists_may_share_synonyms_but_not_what_is_asked(clip, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(["bat, animal", "bat, club"]))
    vocabulary = load_vocabulary(path)
    single = prompt_templates("single")
    with pytest.raises(
        ValueError, match="classes 0 and 1 are both 'bat'.* put another synonym first"
    ):
        TextEmbedder(clip.tokenizer, single, "first")(clip.model, vocabulary)
    with torch.no_grad():
        first, second = TextEmbedder(clip.tokenizer, single, "mean")(clip.model, vocabulary)
    assert (first - second).abs().max() > 0.01
    path.write_text(json.dumps(["bat, animal", "Animal, bat"]))
    with pytest.raises(
        ValueError, match="classes 0 and 1 are both 'animal' .'Animal' has the same tokens"
    ):
        load_vocabulary(path)


def test_released_lists_keep_their_twins(clip, tmp_path):
    """Ten classes of ADE-847 share their first name, also in CAT-Seg's own file; others may not."""
    released = builtin("ade847")
    embed = TextEmbedder(clip.tokenizer, prompt_templates("single"), "first")
    assert len(embed.prompts(released)[0]) == 847
    path = tmp_path / "ade847.json"
    path.write_text(json.dumps([", ".join(synonyms) for synonyms in released.classes]))
    assert len(embed.prompts(load_vocabulary(path))[0]) == 847
    path.write_text(json.dumps([", ".join(synonyms) for synonyms in released.classes[:253]]))
    assert len(embed.prompts(load_vocabulary(path))[0]) == 253
    path.write_text(json.dumps([", ".join(synonyms) for synonyms in released.classes[1:254]]))
    with pytest.raises(ValueError, match="classes 146 and 152 are both 'screen'"):
        embed.prompts(load_vocabulary(path))
    with pytest.raises(ValueError, match="classes 114 and 847 are both 'bag'"):
        embed.prompts(Vocabulary((*released.classes, ("bag",))))
    for path in LISTS.glob("*.json"):
        for rule in ("first", "mean", "max"):
            TextEmbedder(clip.tokenizer, prompt_templates("single"), rule).prompts(
                builtin(path.stem).with_background_prompts()
            )


def test_twins_are_found_before_a_run(tmp_path):
    path = tmp_path / "classes.json"
    path.write_text(json.dumps([f"c{k}" for k in range(18)] + ["bat, animal", "bat, club"]))
    for key, check in (
        ("TEST", lambda cfg: evaluated_vocabulary(cfg, "voc_2012_test_sem_seg")),
        ("TRAIN", train_vocabulary),
    ):
        keys = [
            f"MODEL.SEM_SEG_HEAD.{key}_CLASS_JSON",
            str(path),
            "DATASETS.TRAIN",
            "('voc_2012_test_sem_seg',)",
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
            "20",
        ]
        with pytest.raises(ValueError, match="classes 18 and 19 are both 'bat'"):
            check(load_config("configs/quickstart/hyperclip.yaml", keys))
        assert (
            check(
                load_config("configs/quickstart/hyperclip.yaml", [*keys, "MODEL.SYNONYMS", "mean"])
            ).names[18]
            == "bat"
        )


@pytest.mark.parametrize(
    "end", ["\n", "\r\n", "\r", ";\n", "\n\n", "\u2028", "\u0085", "；", " ; "]
)
def test_every_line_is_a_class(end, tmp_path):
    expected = (("dog", "puppy"), ("road",), ("blue sky",))
    text = end.join(["dog, puppy", "road", "blue sky"])
    assert (
        Vocabulary.from_text(text).classes
        == Vocabulary.from_text(f"{end}{text}{end}").classes
        == expected
    )
    path = tmp_path / "names.txt"
    path.write_bytes(b"\xef\xbb\xbf" + f"{text}{end}".encode())
    loaded = load_vocabulary(path)
    assert loaded.classes == expected and loaded.typed and loaded.name == "names"


def test_negatives_of_several_lines():
    assert Vocabulary.from_text("road", "wall\ngrass, Tree；sea").negatives == (
        "wall",
        "grass",
        "Tree",
        "sea",
    )


@pytest.mark.parametrize(
    "text",
    [
        "dog, cat, road",
        "dog,cat,road\n",
        "dog， cat， road",
        "dog、cat、road",
        "dog, cat, road, Dog",
    ],
)
def test_commas_where_semicolons_were_meant(text, tmp_path):
    with pytest.raises(
        ValueError,
        match="got one class with the synonyms 'dog, cat, road'.* write 'dog; cat; road' or a line",
    ):
        Vocabulary.from_text(text)
    path = tmp_path / "names.json"
    path.write_text(json.dumps([text.strip()]))
    with pytest.raises(ValueError, match=r"names.json': got one class .* make it a list of lists"):
        load_vocabulary(path)


def test_one_class_of_synonyms_can_be_meant(caplog, tmp_path):
    assert Vocabulary.from_text("dog, puppy, hound;").classes == (("dog", "puppy", "hound"),)
    path = tmp_path / "names.json"
    path.write_text(json.dumps([["dog", "puppy", "hound"]]))
    assert load_vocabulary(path).classes == (("dog", "puppy", "hound"),)
    assert Vocabulary.from_text("car, Car").classes == (("car", "Car"),) and not caplog.records
    with caplog.at_level(logging.WARNING, logger="hyperclip"):
        typed = Vocabulary.from_text("dog, puppy")
    assert typed.classes == (("dog", "puppy"),)
    assert "one class with the synonyms 'dog, puppy'" in caplog.text
    assert (
        "one class with the synonyms 'dog, puppy'" in typed.doubt
        and "write 'dog; puppy'" in typed.doubt
    )
    for clear in ("dog", "dog, puppy;", "dog, puppy; cat", "dog, Dog"):
        assert Vocabulary.from_text(clear).doubt == ""


@pytest.mark.parametrize(
    "entry",
    ["sky, heaven", "sky,heaven", "sky", "sky ", ["sky", "heaven"], ["sky, heaven", "firmament"]],
)
def test_yaml_and_json_split_alike(entry, tmp_path):
    (tmp_path / "names.json").write_text(json.dumps([entry, "road, street, way"]))
    keys = {"name": "mine", "splits": {"val": {"images": "i", "labels": "l"}}}
    read = []
    for classes in ([entry, "road, street, way"], "names.json"):
        (tmp_path / "set.yaml").write_text(json.dumps({**keys, "classes": classes}))
        read.append(read_dataset_file(tmp_path / "set.yaml")[0].vocabularies["catseg"].classes)
    assert read[0] == read[1] == load_vocabulary(tmp_path / "names.json").classes
    assert read[0][1] == ("road", "street", "way")
    assert len(read[0][0]) == (1 if isinstance(entry, str) and "," not in entry else 2)


@torch.no_grad()
@pytest.mark.parametrize(("setting", "rule"), [("first", "mean"), ("mean", "mean"), ("max", "max")])
def test_all_typed_synonyms_are_asked(clip, setting, rule):
    """A config's "first" is for class lists."""
    cfg = load_config("configs/quickstart/hyperclip.yaml", ["MODEL.SYNONYMS", setting])
    embed = TextEmbedder.from_config(cfg, clip.tokenizer)
    typed, listed = (
        Vocabulary.from_text("star, red star; cross"),
        Vocabulary.from_names(["star, red star", "cross"]),
    )
    assert (embed.rule(typed), embed.rule(listed)) == (rule, setting)
    assert embed.asked(typed) == [["star", "red star"], ["cross"]]
    assert embed.asked(listed) == [
        ["star"] if setting == "first" else ["star", "red star"],
        ["cross"],
    ]
    units = [
        F.normalize(
            encode_text(
                clip.model, tokenize(clip.tokenizer, [embed.templates[0].format(name)], 32)
            ),
            dim=-1,
        )[0]
        for name in ("star", "red star", "cross")
    ]
    expected = units if rule == "max" else [F.normalize((units[0] + units[1]) / 2, dim=0), units[2]]
    torch.testing.assert_close(
        embed(clip.model, typed), torch.stack(expected), atol=1e-5, rtol=1e-5
    )
    want = expected if setting != "first" else [units[0], units[2]]
    torch.testing.assert_close(embed(clip.model, listed), torch.stack(want), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("rule", ["mean", "max"])
def test_a_synonym_twice_counts_once(clip, rule):
    embed = TextEmbedder(clip.tokenizer, prompt_templates("scene"), rule)
    once, twice = (
        Vocabulary.from_text("star, red star; cross"),
        Vocabulary.from_text("star, Star, red star, star ; cross"),
    )
    assert torch.equal(embed(clip.model, once), embed(clip.model, twice))
    assert embed.class_of(once) == embed.class_of(twice)


def test_left_out_synonyms_are_said(clip, caplog):
    with torch.no_grad(), caplog.at_level(logging.INFO, logger="hyperclip"):
        vocabulary = Vocabulary.from_names(["star, sun, red star", "x"])
        TextEmbedder(clip.tokenizer, prompt_templates("single"), "first")(clip.model, vocabulary)
    assert (
        "'custom': first names only (MODEL.SYNONYMS first), 2 synonyms are not asked" in caplog.text
    )


@pytest.mark.parametrize("name", ["words.txt", "words.json"])
def test_a_class_file_in_the_home_folder(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    content = "dog, puppy; road" if name.endswith(".txt") else '[["dog", "puppy"], "road"]'
    (tmp_path / name).write_text(content)
    for read in (load_vocabulary, Vocabulary.from_file):
        assert read(f"~/{name}").classes == (("dog", "puppy"), ("road",))
