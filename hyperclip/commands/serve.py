"""Answer other programs over HTTP: images and words in, masks out.

    hyperclip-serve --port 8000
    curl -F image=@photo.jpg -F 'vocabulary=dog; road, street; sky' http://127.0.0.1:8000/segment
    curl -F image=@photo.jpg -F 'vocabulary=dog; road' -F output=png -o labels.png \\
        http://127.0.0.1:8000/segment

Without --config-file the best model of which everything is on this machine is taken. The server
listens on this machine only, unless --host says otherwise; --api-key NAME takes the key that
requests have to bring from the environment variable NAME. Requests of the same words that wait are
answered together. What the model sees in an image is kept by the SHA-256 of its file, so that new
words about it need no upload: -F image_hash=…. No request makes the server open a path or an
address. /health says whether it answers, /metrics counts for Prometheus. SIGINT and SIGTERM end it
after the requests in progress. docs/serving.md has all fields, limits and figures.
"""

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

import argparse
import ipaddress
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace

from detectron2.config import CfgNode
from detectron2.utils.logger import setup_logger

from .. import zoo
from ..config import load_config
from ..predictor import Predictor
from ..runtime import memory, program
from ..runtime.ports import listen
from ..serving.limits import Limits
from ..serving.pages import Pages
from ..serving.running import require_libraries, run
from ..serving.service import Service, Sizes
from . import register_systems

logger = logging.getLogger("hyperclip.serve")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; SystemExit 2 where it is wrong."""
    parser = program.program_parser(__doc__)
    add = parser.add_argument
    add("--config-file", metavar="FILE", help="default: the best model on this machine")
    add("--port", type=int, default=8000, help="default: %(default)s")
    where = "address to listen on; default: %(default)s, this machine alone; 0.0.0.0: its networks"
    add("--host", default="127.0.0.1", help=where)
    key = "environment variable that holds the key which requests have to bring"
    add("--api-key", default="", metavar="NAME", help=key)
    add("--batch", type=int, default=8, help="requests answered together; default: %(default)s")
    images = "megabytes of encoded images that are kept; default: %(default)s"
    add("--cache-megabytes", type=float, default=1024, help=images)
    words = "vocabularies whose embeddings are kept; default: %(default)s"
    add("--cache-vocabularies", type=int, default=32, help=words)
    add("--max-megabytes", type=float, default=25, help="of an image file; default: %(default)s")
    add("--max-megapixels", type=float, default=25, help="of an image; default: %(default)s")
    add("--max-names", type=int, default=2000, help="of a vocabulary; default: %(default)s")
    add("--max-letters", type=int, default=200, help="of a name; default: %(default)s")
    add("--max-waiting", type=int, default=64, help="requests at a time; default: %(default)s")
    add("--timeout", type=float, default=30, help="seconds for an answer; default: %(default)s")
    add("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    return parser.parse_args(argv)


def limits_of(arguments: argparse.Namespace) -> Limits:
    """What requests may be; ValueError, which names the option, unless all are above 0."""
    for name in ("megabytes", "megapixels", "names", "letters", "waiting"):
        _need_positive(f"--max-{name}", getattr(arguments, f"max_{name}"))
    _need_positive("--timeout", arguments.timeout)
    return Limits(
        bytes=int(arguments.max_megabytes * 2**20),
        pixels=int(arguments.max_megapixels * 1e6),
        names=arguments.max_names,
        letters=arguments.max_letters,
        seconds=arguments.timeout,
        waiting=arguments.max_waiting,
    )


def sizes_of(arguments: argparse.Namespace) -> Sizes:
    """What is kept; ValueError, which names the option, unless all are above 0."""
    for name in ("batch", "cache_megabytes", "cache_vocabularies"):
        _need_positive(f"--{name.replace('_', '-')}", getattr(arguments, name))
    kept = int(arguments.cache_megabytes * 2**20)
    return Sizes(kept, arguments.cache_vocabularies, arguments.batch)


def _need_positive(option: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{option}: got {value:g}, expected a number above 0")


def key_of(arguments: argparse.Namespace) -> str:
    """The key of the environment, "" if none is wanted; ValueError for a variable without one."""
    name = arguments.api_key
    if not name:
        return ""
    key = os.environ.get(name, "").strip()
    if not key:
        how = f"set it: export {name}=…"
        raise ValueError(f"--api-key: the environment variable {name} holds no key; {how}")
    return key


def chosen_config(arguments: argparse.Namespace) -> tuple[CfgNode, str]:
    """The config of the command line, or of the best model on this machine, and what it is; raises
    as :func:`load_config` and :func:`hyperclip.zoo.best_here`.
    """
    if arguments.config_file:
        return load_config(arguments.config_file, arguments.opts), arguments.config_file
    best = zoo.best_here()
    return load_config(best.config, [*best.overrides, *arguments.opts]), best.what


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until somebody ends it; 0 then."""
    register_systems()
    arguments = parse_arguments(argv)
    setup_logger(name="hyperclip")
    limits, sizes, key = limits_of(arguments), sizes_of(arguments), key_of(arguments)
    require_libraries()
    cfg, what = chosen_config(arguments)
    if cfg.INPUT.MAX_PIXELS:
        limits = replace(limits, pixels=min(limits.pixels, cfg.INPUT.MAX_PIXELS))
    if not key and not _is_this_machine(arguments.host):
        logger.warning("--host %s: whoever reaches it may ask; set --api-key", arguments.host)
    with listen(arguments.port, arguments.host) as listener:
        memory.keep_freed_memory()
        predictor = Predictor.from_config(cfg)
        service = Service(predictor, limits, sizes, cfg.INPUT.IMAGE_BITS)
        host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        sys.stdout.write(f"listening on http://{host}:{arguments.port} with {what}\n")
        sys.stdout.flush()
        run(Pages(service, {"model": what}, key), listener)
    return 0
