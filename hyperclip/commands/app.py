"""A page to try any image and any words: hyperclip-app, then open the address that it prints.

It starts on the best model of which everything is on this machine, and listens on this machine only
(--share publishes it). Other systems come from configs, with KEY VALUE pairs of their own:

    hyperclip-app --config-file configs/vitb_384_hyperbolic.yaml MODEL.WEIGHTS model_final.pth \\
        --config-file configs/cliper/vit-b-16/ovs_voc21.yaml

Visitors choose among these systems, upload images or take examples, and type words or upload a list
of them. They see the overlay with a legend of names, shares and confidence, click for the three
best scores of a pixel, hide classes, and download overlay, label map and COCO masks. New words on
the same image do not encode it again, and whoever waits sees the place in the queue.

Nothing that visitors send is taken for a path or an address. Uploads and results are kept for an
hour at most, in a folder that is removed when the program ends. --max-megapixels and
--max-megabytes bound what may be uploaded; a config's INPUT.MAX_PIXELS holds where it is lower.
"""

from ..runtime import detectron2  # noqa: F401  # isort: skip (first, see there)

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Sequence

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

from ..runtime.extras import how_to_install  # noqa: E402

try:
    import gradio  # noqa: E402, F401
except ImportError as error:
    raise ImportError(f"the page needs Gradio ({error}): {how_to_install('demo')}") from error

from ..page.answers import Answers, Limits  # noqa: E402
from ..page.layout import build_page  # noqa: E402
from ..page.look import CSS, theme  # noqa: E402
from ..page.systems import Systems, offered  # noqa: E402
from ..runtime import memory, program  # noqa: E402
from ..runtime.ports import check_port  # noqa: E402
from . import register_systems  # noqa: E402


def limits_of(megapixels: float, megabytes: float) -> Limits:
    """The command line's limits of uploads; ValueError unless they are above 0."""
    for name, value in (("--max-megapixels", megapixels), ("--max-megabytes", megabytes)):
        if not 0 < value < float("inf"):
            raise ValueError(f"{name}: got {value}, expected a number above 0")
    return Limits(int(megapixels * 1e6), int(megabytes * 2**20))


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; SystemExit 2 where it is wrong."""
    parser = program.program_parser(__doc__)
    add = parser.add_argument
    names, offer = ("FILE", "KEY VALUE"), "offer this system too, first"
    add("--config-file", action="append", nargs="+", default=[], metavar=names, help=offer)
    add("--port", type=int, default=7860)
    where = "address to listen on; default: %(default)s, this machine alone; 0.0.0.0: its networks"
    add("--host", default="127.0.0.1", help=where)
    add("--share", action="store_true", help="publish the page through Gradio's tunnel")
    add("--max-megapixels", type=float, default=25, help="of an image; default: %(default)s")
    add("--max-megabytes", type=float, default=25, help="of a file; default: %(default)s")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Open the page for as long as this process runs."""
    register_systems()
    arguments = parse_arguments(argv)
    check_port(arguments.port, arguments.host)
    limits = limits_of(arguments.max_megapixels, arguments.max_megabytes)
    memory.keep_freed_memory()
    systems = Systems(offered(arguments.config_file))
    # so that the folder below is removed then, too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix="uploads-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # of this program alone
        build_page(Answers(systems, limits)).launch(
            server_name=arguments.host,
            server_port=arguments.port,
            share=arguments.share,
            max_file_size=4 * limits.bytes,  # up to there our own message says what is too much
            footer_links=["settings"],
            theme=theme(),
            css=CSS,
        )
