#!/usr/bin/env python
"""Segment images with an exported model: numpy, Pillow and onnxruntime or OpenVINO, no torch.

    python demo/onnx_demo.py --model output/exported --input photos --output out \\
        --vocabulary "dog, puppy; floor; wall"

MODEL is a folder that hyperclip-export wrote. This file needs nothing else of the repository: copy
it beside the folder. Of each image it writes NAME_labels.png, the number of the class of each pixel
from 0 on (255 for none of them), and NAME.png, the same in colours; and classes.json for all. A
model with a text tower of Hugging Face needs the package tokenizers, too.

``;`` separates classes, ``,`` their synonyms. Pixels that look more like one of --negatives, or
whose score is below --threshold, get no class. --save-embeddings keeps what the text tower gives in
a file, which --embeddings takes in place of words. Shapes: T classes, P prompts, S tokens, C
embedding, N cells, h w grid, H W image.
"""

import argparse
import colorsys
import functools
import html
import importlib.util
import json
import math
import os
import re
import sys
import unicodedata
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

SCHEMA, NO_CLASS = 1, 255
LEAST = 1e-6  # a threshold that leaves out nothing
ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


# Words ----------------------------------------------------------------------------------------


def split_vocabulary(text, option="--vocabulary"):
    """Typed classes, each a list of synonyms; ValueError for none, or a name there twice."""
    entries = re.split("[;\uff1b\n\r]", text)
    classes = [[n.strip() for n in re.split("[,\uff0c\u3001]", e) if n.strip()] for e in entries]
    classes = [list(dict.fromkeys(names)) for names in classes if names]
    if not classes:
        raise ValueError(f"{option}: got {text!r}, expected names such as 'dog; floor'")
    check_once(classes)
    return classes


def check_once(classes):
    """ValueError for a name that is there twice."""
    names = [letters(name) for synonyms in classes for name in synonyms]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"--vocabulary: {twice[0]!r} is there twice; remove one")


def letters(name):
    """A name without what makes no difference to the text tower."""
    return "".join(unicodedata.normalize("NFC", name).lower().split())


def kind_of(character):
    """The kind of a character for :func:`split_words`: letter, number, space or other."""
    if character.isspace():
        return "space"
    return {"L": "letter", "N": "number"}.get(unicodedata.category(character)[0], "other")


def split_words(text):
    """The pieces of a text that CLIP's byte-pair encoding works on."""
    place, pieces = 0, []
    while place < len(text):
        kind, end = kind_of(text[place]), place + 1
        if found := re.compile("'(?:s|t|re|ve|m|ll|d)", re.IGNORECASE).match(text, place):
            end = found.end()
        elif kind != "number":
            while end < len(text) and kind_of(text[end]) == kind:
                end += 1
        if kind != "space":
            pieces.append(text[place:end])
        place = end
    return pieces


def byte_letters():
    """The letter that stands for each byte: itself if it can be seen, else one from 256 on."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in seen]
    letters = {byte: chr(byte) for byte in seen}
    return letters | {byte: chr(256 + i) for i, byte in enumerate(others)}


class BytePairs:
    """CLIP's tokenizer, of a file with its merges."""

    def __init__(self, path):
        content = json.loads(path.read_text(encoding="utf-8"))
        self.start, self.end = content["start"], content["end"]
        merges = [tuple(merge.split(" ")) for merge in content["merges"]]
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.letters = byte_letters()
        single = list(self.letters.values())
        tokens = [*single, *(letter + "</w>" for letter in single), *map("".join, merges)]
        self.ids = {token: number for number, token in enumerate(tokens)}

    def __call__(self, text):
        """The ids of a prompt, with those around it."""
        text = html.unescape(html.unescape(unicodedata.normalize("NFC", text)))
        for curly, straight in zip("\u2018\u2019\u201c\u201d", "''\"\"", strict=True):
            text = text.replace(curly, straight)
        text = " ".join(text.split()).lower()
        ids = [self.ids[token] for word in split_words(text) for token in self.merge(word)]
        return [self.start, *ids, self.end]

    def merge(self, word):
        """The tokens of a word: neighbours are joined, the pair of the lowest rank first."""
        tokens = [self.letters[byte] for byte in word.encode("utf-8")]
        tokens[-1] += "</w>"
        while len(tokens) > 1:
            pairs = list(zip(tokens, tokens[1:], strict=False))
            best = min(pairs, key=lambda pair: self.ranks.get(pair, math.inf))
            if best not in self.ranks:
                break
            joined, i = [], 0
            while i < len(tokens):
                both = i + 1 < len(tokens) and (tokens[i], tokens[i + 1]) == best
                joined.append(tokens[i] + tokens[i + 1] if both else tokens[i])
                i += 2 if both else 1
            tokens = joined
        return tokens


def load_tokenizer(folder, entry):
    """What makes ids of a prompt."""
    if entry["kind"] == "bpe":
        return BytePairs(folder / entry["file"])
    if importlib.util.find_spec("tokenizers") is None:
        raise ModuleNotFoundError("this model needs tokenizers. Install it: pip install tokenizers")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / entry["file"]))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return lambda text: tokenizer.encode(" ".join(text.split())).ids


def unit(x):
    """Vectors (…, C) of length 1."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


class Words:
    """The text side: classes to unit embeddings."""

    def __init__(self, folder, manifest, program):
        self.entry, self.templates = manifest["tokenizer"], manifest["templates"]
        self.tokenizer, self.program = load_tokenizer(folder, self.entry), program

    def prompts(self, names):
        """Unit embeddings (P, C) of names in all templates."""
        context, sentences = self.entry["context"], []
        for name in names:
            sentences += [template.replace("{}", name) for template in self.templates]
        ids = [self.tokenizer(sentence) for sentence in sentences]
        for sentence, own in zip(sentences, ids, strict=True):
            if len(own) > context:
                problem = f"got {sentence!r} with {len(own)} tokens"
                raise ValueError(f"--vocabulary: {problem}, expected at most {context}")
        tokens = np.full((len(ids), max(map(len, ids))), self.entry["padding"], dtype=np.int64)
        for row, own in zip(tokens, ids, strict=True):
            row[: len(own)] = own
        parts = [self.program({"tokens": part}) for part in batches(tokens, 64)]
        return np.concatenate([next(iter(part.values())) for part in parts])

    def embed(self, classes, each):
        """Unit embeddings (S, C) of classes, or with ``each`` of all their synonyms, and the class
        of each (S,).
        """
        if each:
            entries = [[name] for names in classes for name in names]
            owners = [k for k, names in enumerate(classes) for _ in names]
        else:
            entries, owners = classes, range(len(classes))
        rows = [unit(self.prompts(names).sum(axis=0)) for names in entries]
        return np.stack(rows).astype(np.float32), np.array(owners)


def batches(rows, size):
    """Some rows at a time."""
    return [rows[i : i + size] for i in range(0, len(rows), size)]


# Pixels ---------------------------------------------------------------------------------------


def read_image(path):
    """An image as upright RGB; ValueError if it cannot be read."""
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:  # decoders raise whatever a damaged file makes them trip over
        raise ValueError(f"image {str(path)!r} cannot be read ({error})") from error


def shrunk(image, shortest, longest):
    """An image whose shorter side is ``shortest`` pixels (0: as it is), the longer at most
    ``longest``.
    """
    if not shortest:
        return image
    width, height = image.size
    scale = shortest / min(width, height)
    sides = [shortest if side == min(width, height) else scale * side for side in image.size]
    if longest and max(sides) > longest:
        scale = longest / max(sides)
        sides = [side * scale for side in sides]
    width, height = (max(int(side + 0.5), 1) for side in sides)
    return image.resize((width, height), Image.Resampling.BILINEAR)


@functools.lru_cache(maxsize=64)
def interpolation(old, new):
    """The matrix (new, old) of bilinear resizing along one side, without anti-aliasing."""
    places = np.maximum((np.arange(new) + 0.5) * (old / new) - 0.5, 0)
    low = np.minimum(places.astype(int), old - 1)
    high, share = np.minimum(low + 1, old - 1), places - low
    matrix = np.zeros((new, old), np.float32)
    np.add.at(matrix, (np.arange(new), low), 1 - share)
    np.add.at(matrix, (np.arange(new), high), share)
    return matrix


def resize(maps, size):
    """Maps (…, h, w) in a size (H, W)."""
    h, w = maps.shape[-2:]
    if (h, w) == tuple(size):
        return maps
    return interpolation(h, size[0]) @ maps @ interpolation(w, size[1]).T


def sigmoid(x):
    """1 / (1 + exp(-x)) without overflow, as exact near 0 as elsewhere."""
    small = np.exp(-np.abs(x))
    return np.where(x < 0, small, 1) / (1 + small)


# Models ---------------------------------------------------------------------------------------


class Program:
    """A file of the model, which takes arrays by their names and gives arrays by theirs.

    Args:
        run: arrays (by the names in ``inputs``, which may be among others) to a list of what
            ``outputs`` names.
    """

    def __init__(self, inputs, outputs, run):
        self.inputs, self.outputs, self.run = inputs, outputs, run

    def __call__(self, values):
        found = self.run({name: values[name] for name in self.inputs})
        return dict(zip(self.outputs, found, strict=True))


def by_onnxruntime(path, threads):
    """A program that onnxruntime runs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    ends = (session.get_inputs(), session.get_outputs())
    names = [[end.name for end in own] for own in ends]
    return Program(*names, lambda values: session.run(None, values))


def by_openvino(path, threads):
    """A program that OpenVINO runs; where it cannot compile one for arrays of any size, one for
    each size that is asked.
    """
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32"}  # some processors would take bfloat16
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    model = openvino.Core().read_model(path)
    names = [[end.any_name for end in own] for own in (model.inputs, model.outputs)]

    @functools.lru_cache(4)
    def compiled(*shapes):
        if shapes:
            model.reshape(dict(zip(names[0], shapes, strict=True)))
        return openvino.compile_model(model, "CPU", settings)

    try:
        compiled()
        sized = False
    except RuntimeError:  # the head of HyperCLIP, say
        sized = True

    def run(values):
        shapes = [value.shape for value in values.values()] if sized else []
        return compiled(*shapes)(values, share_outputs=False).to_tuple()

    return Program(*names, run)


RUNTIMES = {"onnxruntime": by_onnxruntime, "openvino": by_openvino}


def open_program(path, runtime, threads):
    """A file of the model as a program; ValueError if it is not there, ModuleNotFoundError if its
    runtime is not.
    """
    if not path.is_file():
        problem = f"{path.name} is not in {str(path.parent)!r}"
        raise ValueError(f"--model: {problem}. Export it with --format onnx")
    if importlib.util.find_spec(runtime) is None:
        problem = f"got {runtime!r}, a package that is not installed"
        raise ModuleNotFoundError(f"--runtime: {problem}. Install it: pip install {runtime}")
    return RUNTIMES[runtime](path, threads)


class Model:
    """An exported model: images to labels and scores."""

    def __init__(self, folder, threads=0, runtime="onnxruntime"):
        self.folder, self.threads, self.runtime = Path(folder), threads, runtime
        path = self.folder / "manifest.json"
        if not path.is_file():
            problem = f"got {str(folder)!r}, which has no manifest.json"
            raise ValueError(f"--model: {problem}. Expected a folder of hyperclip-export")
        try:
            self.manifest = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            problem = f"{path.name} cannot be read ({error})"
            raise ValueError(f"--model: {problem}. Copy the folder again") from error
        if self.manifest.get("schema") != SCHEMA:
            got = self.manifest.get("schema")
            raise ValueError(f"{path.name}: got schema {got}, expected {SCHEMA}. Export it again")
        self.rule, self.pixels = self.manifest["inference"], self.manifest["preprocessing"]
        self.image, self.head = self.program("image"), self.program("head")
        self._words = None

    def require_whole(self, start):
        """ValueError for a file whose name begins so and that is not as long as it was written."""
        for name, entry in self.manifest["files"].items():
            path, whole = self.folder / name, entry["bytes"]
            size = path.stat().st_size if path.is_file() else 0
            if name.startswith(start) and size != whole:
                problem = f"{name} has {size} bytes, expected {whole} as manifest.json says"
                raise ValueError(f"--model: {problem}. Copy the folder again")

    def program(self, part):
        """One of the model's programs; raises as :meth:`require_whole` and :func:`open_program`."""
        name = f"{part}.onnx"
        self.require_whole(name)  # and large weights, which lie in files beside it
        return open_program(self.folder / name, self.runtime, self.threads)

    @property
    def words(self):
        """The text side, which is read when words are first embedded."""
        if self._words is None:
            self.require_whole(self.manifest["tokenizer"]["file"])
            self._words = Words(self.folder, self.manifest, self.program("text"))
        return self._words

    def embed(self, classes):
        """Unit embeddings (S, C) of classes, lists of synonyms, and the class of each (S,)."""
        return self.words.embed(classes, self.manifest["synonyms"] == "max")

    def segment(self, image, classes, text, owners, rest=0, threshold=None):
        """The scores (T, H, W) of one of Pillow's images for classes, lists of synonyms, and what
        :meth:`embed` gives; and the labels (H, W), NO_CLASS where the model leaves pixels out, for
        the last ``rest`` classes, and where no score reaches the threshold.
        """
        if text.ndim != 2 or text.shape[1] != self.manifest["embed_dim"]:
            expected = f"expected (classes, {self.manifest['embed_dim']})"
            raise ValueError(f"embeddings: got {text.shape}, {expected} as this model's are")
        small = shrunk(image, self.pixels["shortest"], self.pixels["longest"])
        size = image.size[::-1]
        if self.rule["kind"] == "views":
            scores, labels = self.by_views(small, text, owners, size, threshold)
        else:
            prompts = np.concatenate([text, *self.negatives(classes, text)])
            coarse = self.by_patches(small, prompts, len(text))
            scores, labels = self.to_labels(coarse, size, rest, threshold)
        return scores, np.where(labels < len(classes) - rest, labels, NO_CLASS)

    def normalise(self, image):
        """Pixels (3, H, W) as the image encoder takes them."""
        values = np.asarray(image, np.float32).transpose(2, 0, 1)
        mean, std = (
            np.array(self.pixels[key], np.float32)[:, None, None] for key in ("mean", "std")
        )
        return (values - mean) / std

    def ask(self, seen):
        """What the head makes of an image and words."""
        return next(iter(self.head(seen).values()))

    # HyperCLIP: views of one size, independent scores

    def by_views(self, image, text, owners, size, threshold):
        """See :meth:`segment`."""
        sliding = self.rule["sliding"]
        logits = [self.logits(view, text) for view in self.views(self.normalise(image))]
        merged = self.merge(logits, sliding) if sliding else sigmoid(logits[0])
        whole = resize(merged, size)
        scores = np.zeros((owners.max() + 1, *size), np.float32)
        np.maximum.at(scores, owners, whole)
        labels = scores.argmax(axis=0)
        if threshold is not None:
            labels = np.where(scores.max(axis=0) < threshold, NO_CLASS, labels)
        return scores, labels

    def views(self, image):
        """Views (3, r, r) of a normalised image, that of the whole one last."""
        resolution, sliding = self.rule["resolution"], self.rule["sliding"]
        if not sliding:
            if divisor := self.rule["divisor"]:
                pads = [(0, 0), *((0, -side % divisor) for side in image.shape[1:])]
                image = np.pad(image, pads)
            return [resize(image, resolution)]
        kernel = sliding["kernel"]
        square = resize(image, [sliding["size"]] * 2)
        views = [square[:, y : y + kernel, x : x + kernel] for y, x in sliding["origins"]]
        if sliding["global_view"]:
            views.append(resize(image, (kernel, kernel)))
        return [resize(view, resolution) for view in views]

    def logits(self, view, text):
        """Logits (S, h, w) of a view; very low ones of classes that are not among the best."""
        seen = self.image({"view": view[None]})
        most, kept = self.rule["most_classes"], np.arange(len(text))
        if 0 < most < len(text):
            cells = seen["embeddings"][0].reshape(text.shape[1], -1)
            best = (unit(text) @ unit(cells.T).T).max(axis=1)
            kept = np.sort(np.argsort(-best, kind="stable")[:most])
        seen["text"] = text[kept]
        found = self.ask(seen)[0]
        logits = np.full((len(text), *found.shape[1:]), -100, np.float32)
        logits[kept] = found
        return logits

    def merge(self, logits, sliding):
        """Scores (S, side, side) of the views' logits: the mean of the windows that cover a pixel,
        and of the view of the whole image, half and half.
        """
        kernel, side = sliding["kernel"], sliding["size"]
        total = np.zeros((len(logits[0]), side, side), np.float32)
        count = np.zeros((side, side), np.float32)
        for view, (y, x) in zip(logits, sliding["origins"], strict=False):
            window = (..., slice(y, y + kernel), slice(x, x + kernel))
            total[window] += sigmoid(resize(view, (kernel, kernel)))
            count[window] += 1
        total /= count
        if sliding["global_view"]:
            whole = sigmoid(resize(logits[-1], (kernel, kernel)))
            total = (total + resize(whole, (side, side))) / 2
        return total

    # CLIPer: the whole image in patches, classes against each other and negatives

    def by_patches(self, image, text, classes):
        """The scores (T, h, w) of classes; what is none of them is behind them."""
        patch = self.rule["patch"]
        width, height = image.size
        scale = self.rule["size"] / min(width, height)
        scale = min(scale, self.rule["max_size"] / max(width, height))
        sides = [max(int(side * scale / patch + 0.5), 1) * patch for side in image.size]
        pixels = self.normalise(image.resize(sides, Image.Resampling.BICUBIC))
        seen = self.image({"image": pixels[None]})
        seen["text"] = text
        scores = self.ask(seen)[:classes]
        return scores.reshape(classes, sides[1] // patch, -1)

    def negatives(self, classes, text):
        """Embeddings of what is none of the classes: the model's words but for those that are a
        class, and the classes' mean.
        """
        taken = {letters(name) for names in classes for name in names}
        others = [own for own in self.rule["negatives"] if letters(own["name"]) not in taken]
        stored = [np.array([own["embedding"]], np.float32) for own in others]
        mean = [unit(text.mean(axis=0, keepdims=True))] if self.rule["mean_negative"] else []
        return [*stored, *mean]

    def to_labels(self, coarse, size, rest, threshold):
        """Maps (T, h, w) scaled to the score of their class, and what the thresholds leave."""
        rule = self.rule
        if threshold is not None:
            level_of = 0.0 if rule["protocol"] == "argmax" else rule["score_threshold"]
            own = {"protocol": "abstain", "score_threshold": level_of}
            rule = {**rule, **own, "background_threshold": max(threshold, LEAST)}
        elif rest:
            rule = {**rule, "protocol": "argmax"}
        level = coarse.max(axis=(1, 2))
        maps = resize(coarse, size)
        maps = maps / (maps.max(axis=(1, 2), keepdims=True) + 1e-5) * level[:, None, None]
        if rule["normalize"]:
            low, high = (f(axis=(1, 2), keepdims=True) for f in (maps.min, maps.max))
            maps = (maps - low) / (high - low + 1e-6)
        if rule["protocol"] == "argmax":
            return maps, maps.argmax(axis=0)
        maps = maps * (level > rule["score_threshold"])[:, None, None]
        threshold = rule["background_threshold"]
        maps = np.where(maps < threshold, 0, maps)
        best = maps.max(axis=0)
        nothing = best == 0 if threshold > 0 else (1 - best) ** 2 >= best
        return maps, np.where(nothing, NO_CLASS, maps.argmax(axis=0))


# Files ----------------------------------------------------------------------------------------


def colours(count):
    """So many colours (count, 3) that differ in hue."""
    hues = (np.arange(count) * 0.618034) % 1
    return np.array([[255 * c for c in colorsys.hsv_to_rgb(h, 0.75, 0.95)] for h in hues], np.uint8)


def images_of(path):
    """The images of a folder, or the one of a file; ValueError for none, or two of one name."""
    if path.is_file():
        return [path]
    files = sorted(p for p in path.glob("*") if p.suffix.lower() in ENDINGS and p.name[0] != ".")
    if not files:
        raise ValueError(f"--input: got {str(path)!r}, where no image is")
    names = [file.stem for file in files]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"--input: two images are called {twice[0]!r}; their results would be one")
    return files


def save(path, write):
    """Write a file in full or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def load_embeddings(path, width):
    """What :func:`words_of` returns, of a file of --save-embeddings."""
    try:
        content = np.load(path, allow_pickle=False)
        classes = json.loads(str(content["classes"]))
        text, owners = content["embeddings"].astype(np.float32), content["owners"]
        rest = int(content["rest"])
    except Exception as error:  # numpy raises errors of many kinds for damaged files
        problem = f"{str(path)!r} cannot be read ({error})"
        raise ValueError(f"--embeddings: {problem}. Make it with --save-embeddings") from error
    if text.ndim != 2 or text.shape[1] != width:
        got = f"got embeddings {text.shape} in {path.name}"
        raise ValueError(f"--embeddings: {got}, expected (classes, {width}) as this model's are")
    return classes, text, owners, rest


def words_of(arguments, model):
    """Classes, embeddings and owners that the command line asks for, and how many classes at the
    end are what is none of them.
    """
    if arguments.embeddings:
        if arguments.negatives:
            raise ValueError(
                "--negatives: got it with --embeddings, expected one of them; give it where the "
                "file is made, with --save-embeddings"
            )
        return load_embeddings(arguments.embeddings, model.manifest["embed_dim"])
    classes = model.manifest["default_names"]
    if arguments.vocabulary:
        classes = split_vocabulary(arguments.vocabulary)
    if not classes:
        raise ValueError(
            "--vocabulary: got none, and the model names no classes. Give 'dog; floor'"
        )
    others = re.sub("[,\uff0c\u3001]", ";", arguments.negatives)  # each word by itself
    rest = split_vocabulary(others, "--negatives") if others else []
    classes = classes + rest
    check_once(classes)
    if len(classes) > NO_CLASS:
        raise ValueError(f"--vocabulary: got {len(classes)} classes, expected at most {NO_CLASS}")
    text, owners = model.embed(classes)
    if path := arguments.save_embeddings:
        arrays = {"classes": json.dumps(classes), "embeddings": text, "owners": owners}
        arrays["rest"] = len(rest)
        with open(path, "wb") as file:
            np.savez(file, **arrays)
    return classes, text, owners, len(rest)


def parse_arguments(argv):
    """The command line; SystemExit 2 where it is wrong."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="FOLDER", help="of hyperclip-export")
    add("--input", type=Path, required=True, metavar="IMAGES", help="a folder or a file")
    add("--output", type=Path, required=True, metavar="FOLDER", help="for the results")
    add("--vocabulary", default="", metavar="WORDS", help="'dog, puppy; floor' say")
    add("--embeddings", type=Path, metavar="FILE.npz", help="in place of a vocabulary")
    add("--save-embeddings", type=Path, metavar="FILE.npz", help="write those of the vocabulary")
    add("--negatives", default="", metavar="WORDS", help="what is none of the classes: 'sky; sea'")
    below = "pixels of a lower score get no class (default: what the model's own rule says)"
    add("--threshold", type=float, metavar="SCORE", help=below)
    runs = "what runs the files (default: onnxruntime)"
    add("--runtime", choices=RUNTIMES, default="onnxruntime", help=runs)
    add("--threads", type=int, default=0, help="of the runtime (default: all cores)")
    arguments = parser.parse_args(argv)
    limit = arguments.threshold
    if limit is not None and not 0 <= limit < math.inf:
        parser.error(f"--threshold: got {limit}, expected a number from 0 on")
    return arguments


def main(argv=None):
    """Segment all images; what is wrong with the words or the model is said before the first."""
    arguments = parse_arguments(argv)
    files = images_of(arguments.input)
    model = Model(arguments.model, arguments.threads, arguments.runtime)
    classes, text, owners, rest = words_of(arguments, model)
    shown = len(classes) - rest
    arguments.output.mkdir(parents=True, exist_ok=True)
    palette = np.zeros((256, 3), np.uint8)
    palette[:shown] = colours(shown)
    for file in files:
        image, limit = read_image(file), arguments.threshold
        _, labels = model.segment(image, classes, text, owners, rest, limit)
        labels = labels.astype(np.uint8)
        plain, coloured = Image.fromarray(labels), Image.fromarray(palette[labels])
        target = arguments.output / file.stem
        save(target.with_name(f"{file.stem}_labels.png"), lambda p, i=plain: i.save(p, "PNG"))
        save(target.with_name(f"{file.stem}.png"), lambda p, i=coloured: i.save(p, "PNG"))
    listed = [
        {"id": k, "names": names, "colour": palette[k].tolist()}
        for k, names in enumerate(classes[:shown])
    ]
    text_of = json.dumps(listed, ensure_ascii=False, indent=1) + "\n"
    save(arguments.output / "classes.json", lambda p: p.write_text(text_of, encoding="utf-8"))
    sys.stdout.write(f"{len(files)} images with {shown} classes: {arguments.output}\n")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, ImportError) as problem:
        sys.exit(f"error: {' '.join(str(problem).split())}")
