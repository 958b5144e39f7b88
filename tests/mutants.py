"""Plant bugs in the packages, one at a time, and see whether the tests notice: python
tests/mutants.py [FILE …]

A tool for contributors, to be run by hand. Every bug is planted in a temporary copy of the
repository, never in the working tree, and the tests that ``tests/mutants.yaml`` names for its file
are run there until the first one fails. Bugs come from that table (the rules that were once broken
without a test that noticed), and from the file's syntax: operators, comparisons, numbers, flags and
statements are changed by turns, the same ones each time. Libraries are imported once; each bug gets
a forked process, in which the packages are imported anew.

    python tests/mutants.py              every file of the table, up to 6 bugs of syntax each
    python tests/mutants.py FILE --per-file 0     all bugs of one file
    python tests/mutants.py --list       which bugs there are, and which entries of the table
                                         fit no file any more, without running them

Exit status: 0 where at least ``--aim`` percent were noticed and no bug of the table was missed,
else 1.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from planting import Mutant, offered

ROOT = Path(__file__).resolve().parents[1]
TABLE = Path(__file__).with_suffix(".yaml")
LIMIT = 120
"""Seconds, by default, after which the tests of a bug are stopped; an endless loop counts as
noticed.
"""


@dataclass
class Tally:
    """What became of the bugs of an entry of the table."""

    caught: int = 0
    missed: list[Mutant] = field(default_factory=list)
    explained: list[tuple[Mutant, str]] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)


def loosely(text: str) -> str:
    """A pattern of a text, however a formatter has broken it into lines."""
    pattern = r"\s+".join(map(re.escape, text.split()))
    pattern = re.sub(r"\\[(\[]", lambda m: m[0] + r"\s*", pattern)
    return re.sub(r"\\[)\]]", lambda m: r",?\s*" + m[0], pattern)


def mutants_of(pattern: str, entry: dict, per_file: int, tally: Tally) -> list[Mutant]:
    """The bugs of the table and, evenly spread over the files, up to ``per_file`` of their syntax;
    0 for all of these.
    """
    files = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))
    sources = {file: (ROOT / file).read_text(encoding="utf-8") for file in files}
    listed = []
    for old, new in entry.get("planted") or ():
        places = [
            (file, m) for file, text in sources.items() for m in re.finditer(loosely(old), text)
        ]
        if len(places) != 1:
            tally.stale.append(f"{pattern}: planted {old!r} is not there exactly once")
            continue
        ((file, place),) = places
        before, what = sources[file][: place.start()], " ".join(f"{old} -> {new}".split())
        start, end = len(before.encode()), len(sources[file][: place.end()].encode())
        listed.append(Mutant(file, before.count("\n") + 1, start, end, new, what, True))
    found = [mutant for file, source in sources.items() for mutant in offered(file, source)]
    count = len(found) if per_file == 0 else min(per_file, len(found))
    return [*listed, *(found[(2 * i + 1) * len(found) // (2 * count)] for i in range(count))]


def reason_of(mutant: Mutant, entry: dict) -> str | None:
    """Why the table says that no test can notice a bug."""
    line = (ROOT / mutant.file).read_text(encoding="utf-8").splitlines()[mutant.line - 1].strip()
    for change, reason in (entry.get("accepted") or {}).items():
        if re.fullmatch(re.sub(r"\\\*", ".*", re.escape(change)), f"{line} | {mutant.what}"):
            return reason
    return None


@contextlib.contextmanager
def copied_repository() -> Iterator[Path]:
    """A temporary copy of what the repository holds, with the shared folder beside it."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
        copy = Path(temporary) / ROOT.name
        names = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "-z"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        for name in filter(None, names.stdout.decode().split("\0")):
            if (ROOT / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, copy / name)
        if (ROOT.parent / "shared").is_dir():
            (Path(temporary) / "shared").symlink_to(ROOT.parent / "shared")
        yield copy


def import_libraries() -> None:
    """Everything slow that the packages import, but not the packages themselves."""
    import importlib.util

    spec = importlib.util.spec_from_file_location(
        "_compat", ROOT / "hyperclip" / "runtime" / "compat.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.define_missing_torchvision_operators()
    for name in (
        "pytest",
        "timm",
        "open_clip",
        "geoopt",
        "diffusers",
        "transformers",
        "torchvision.transforms",
        "detectron2.engine",
        "detectron2.projects.deeplab",
        "detectron2.projects.point_rend",
        "detectron2.evaluation",
        "PIL.Image",
    ):
        __import__(name)
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel, UNet2DModel  # noqa: F401  (imported when named)
    from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401


def run_tests(copy: Path, tests: list[str], report: Path) -> int:
    """Run tests in this process, which has imported no package yet; the first failure's name goes
    to ``report``.
    """
    import pytest
    import torch

    class Reporter:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                target.write_text(report.nodeid)

        def pytest_collectreport(self, report: pytest.CollectReport) -> None:
            if report.failed:
                target.write_text(f"{report.nodeid} (cannot be imported)")

    target = report
    os.chdir(copy)
    sys.path[:0] = [str(copy)]
    os.environ["PYTHONPATH"] = str(copy)
    torch.set_num_threads(1)
    torch.set_num_threads = lambda count: (
        None
    )  # a forked process with threads of its own on a busy machine is slow
    log = os.open(str(report.with_suffix(".log")), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    return int(
        pytest.main(
            ["-x", "-q", "--tb=short", "--durations=0", "-p", "no:cacheprovider", *tests],
            plugins=[Reporter()],
        )
    )


def noticed_by(copy: Path, tests: list[str], limit: float) -> str:
    """The test that fails in a forked process, or what else went wrong; "" if all pass."""
    report = copy.parent / "report"
    report.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        status = 99
        try:
            os.setsid()
            status = run_tests(copy, tests, report)
        finally:
            os._exit(status)
    end = time.monotonic() + limit
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"time limit of {limit:.0f} s"
        time.sleep(0.02)
    if report.exists():
        return report.read_text()
    return "" if status == 0 else f"exit status {os.waitstatus_to_exitcode(status)}"


def run_entry(
    copy: Path, name: str, entry: dict, mutants: list[Mutant], tally: Tally, limit: float
) -> None:
    """Plant the bugs of an entry of the table one after the other."""
    tests = list(entry["tests"])
    sys.dont_write_bytecode = False  # pytest keeps its compiled tests
    start = time.monotonic()
    broken = noticed_by(copy, tests, 10 * limit)
    limit = max(limit, 5 * (time.monotonic() - start))  # a busy machine is no endless loop
    sys.dont_write_bytecode = True  # or a bug could be read from the file of another one
    if broken:
        log = (copy.parent / "report.log").read_text()[-2000:]
        raise SystemExit(f"{name}: without any bug the tests {tests} fail ({broken}):\n{log}")
    for mutant in mutants:
        reason = reason_of(mutant, entry)
        if reason is not None:
            tally.explained.append((mutant, reason))
            continue
        start = time.monotonic()
        with planted(copy / mutant.file, mutant) as sound:
            noticed = noticed_by(copy, tests, limit) if sound else "it is no Python"
        tally.caught += bool(noticed)
        if not noticed:
            tally.missed.append(mutant)
        print(
            f"{'caught' if noticed else 'MISSED'} {time.monotonic() - start:5.1f} s  {mutant}  "
            f"[{noticed}]",
            flush=True,
        )


@contextlib.contextmanager
def planted(path: Path, mutant: Mutant) -> Iterator[bool]:
    """The file with the bug, inside this block; gives whether it can be read at all."""
    original, before = path.read_bytes(), path.stat()
    changed = original[: mutant.start] + mutant.text.encode() + original[mutant.end :]
    path.write_bytes(changed)
    try:
        if path.suffix == ".py":
            compile(changed, str(path), "exec")
        yield True
    except SyntaxError:
        yield False
    finally:
        path.write_bytes(original)
        os.utime(
            path, ns=(before.st_atime_ns, before.st_mtime_ns)
        )  # so that its compiled form stays valid


def summarise(tallies: dict[str, Tally], aim: float) -> bool:
    """Print the counts of each file, what was missed and what is explained; True if it is
    enough.
    """
    print(f"\n{'file':42} {'caught':>6} {'missed':>6} {'explained':>9}")
    for file, tally in tallies.items():
        print(f"{file:42} {tally.caught:6} {len(tally.missed):6} {len(tally.explained):9}")
    caught, missed = (
        sum(n) for n in zip(*((t.caught, len(t.missed)) for t in tallies.values()), strict=True)
    )
    explained = sum(len(t.explained) for t in tallies.values())
    share = 100 * caught / max(caught + missed, 1)
    print(
        f"{'all':42} {caught:6} {missed:6} {explained:9}   {share:.1f} % of those that can be "
        "noticed were"
    )
    for tally in tallies.values():
        for mutant in tally.missed:
            print(f"missed: {mutant}{' (of the table)' if mutant.listed else ''}")
        for mutant, reason in tally.explained:
            print(f"explained: {mutant} ({reason})")
        for line in tally.stale:
            print(f"out of date in {TABLE.name}: {line}")
    return share >= aim and not any(
        mutant.listed for tally in tallies.values() for mutant in tally.missed
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", help="files of the table; default: all")
    parser.add_argument(
        "--per-file",
        type=int,
        default=6,
        help="bugs of syntax in each file, evenly spread; 0 for all",
    )
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for the tests of a bug")
    parser.add_argument("--aim", type=float, default=85, help="percent that have to be noticed")
    parser.add_argument("--list", action="store_true", help="only list the bugs")
    arguments = parser.parse_args()
    table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    unknown = [file for file in arguments.files if file not in table]
    if unknown:
        parser.error(f"{unknown} are not in {TABLE.name}, expected some of {list(table)}")
    chosen = {file: table[file] for file in arguments.files or table}
    tallies = {file: Tally() for file in chosen}
    mutants = {
        file: mutants_of(file, entry, arguments.per_file, tallies[file])
        for file, entry in chosen.items()
    }
    if arguments.list:
        stale = [line for tally in tallies.values() for line in tally.stale]
        bugs = [str(m) for of_file in mutants.values() for m in of_file]
        print("\n".join([*bugs, *(f"out of date in {TABLE.name}: {line}" for line in stale)]))
        return int(bool(stale))
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    with copied_repository() as copy:
        for folder in ("hyperclip", "cliper", "tests"):
            compileall.compile_dir(copy / folder, quiet=2)
        import_libraries()
        for file, entry in chosen.items():
            run_entry(copy, file, entry, mutants[file], tallies[file], arguments.limit)
    return 0 if summarise(tallies, arguments.aim) else 1


if __name__ == "__main__":
    sys.exit(main())
