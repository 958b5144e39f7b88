"""Start the processes of a run with Detectron2's launcher, or join those of torchrun or Slurm."""

import argparse
import contextlib
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable
from types import FrameType

import torch
import torch.distributed as dist
from detectron2.engine import default_argument_parser, launch
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException

from ..runtime.compat import stop_signals

logger = logging.getLogger("hyperclip.training")

ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

Main = Callable[[argparse.Namespace], int | None]


def launch_processes(main: Main, arguments: argparse.Namespace, *, device: str) -> int | None:
    """Call ``main(arguments)`` in every process of the run; what it returned, or None if it ran in
    processes that were started here.

    Under torchrun, or with its variables set (``tools/slurm.sh``), this process is one of them.
    Otherwise Detectron2's launcher starts ``--num-gpus`` processes on this machine, or main runs in
    this process if that is one. The processes talk over NCCL on GPUs, else over gloo.

    Args:
        arguments: of Detectron2's ``default_argument_parser``. device: MODEL.DEVICE.
    Raises:
        ValueError: an environment, a number of processes or an address that cannot be.
        SystemExit: with the code of a process that was started here; 128 + N after signal N.
    """
    on_cuda = torch.device(device).type == "cuda"
    if started_by_environment():
        return _join_environment(main, arguments, on_cuda and torch.cuda.is_available())
    check_process_count(arguments.num_gpus, on_cuda)
    if arguments.num_gpus * arguments.num_machines <= 1:
        return main(arguments)
    address = arguments.dist_url
    if address == default_argument_parser().get_default("dist_url"):
        if arguments.num_machines > 1:
            raise ValueError(
                f"--dist-url: got none with --num-machines {arguments.num_machines}, expected "
                "tcp://HOST:PORT of the first machine, the same on all of them"
            )
        address = "auto"  # a free port of this machine, so that two runs cannot collide
    if not on_cuda:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Detectron2 takes NCCL wherever it sees a GPU
    places = arguments.num_gpus, arguments.num_machines, arguments.machine_rank
    with contextlib.ExitStack() as handlers:
        for number in stop_signals():
            handlers.callback(signal.signal, number, signal.signal(number, _forward))
        try:
            launch(leaving_together, *places, dist_url=address, args=(main, arguments))
        except ProcessExitedException as error:
            logger.error("%s", error)
            code = error.exit_code
            raise SystemExit(code if code > 0 else 128 - code) from error
    return None


def leaving_together(main: Main, arguments: argparse.Namespace) -> int | None:
    """Call ``main(arguments)`` in one process of several, and end their group, whose threads may
    abort a process that merely exits.
    """
    try:
        result = main(arguments)
    except SystemExit:  # an interrupted training: all processes leave together
        dist.destroy_process_group()
        raise
    # Not after an error: the others may be waiting, and leaving ends their wait
    dist.destroy_process_group()
    return result


def check_process_count(count: int, on_cuda: bool = True) -> None:
    """ValueError if ``--num-gpus`` is negative, or more than the GPUs that the processes would use;
    without any GPU, or with ``on_cuda`` False, they share the CPU.
    """
    if count < 0:
        raise ValueError(f"--num-gpus: got {count}, expected 1 or more")
    visible = torch.cuda.device_count() if on_cuda and count > 1 else 0
    if 0 < visible < count:
        expected = f"expected 1 to {visible}. If there are more, look at CUDA_VISIBLE_DEVICES"
        raise ValueError(f"--num-gpus: got {count} where {visible} GPUs are visible, {expected}")


def started_by_environment() -> bool:
    """Whether torchrun, or a launcher that sets the same variables, started this process."""
    needed = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    return dist.is_torchelastic_launched() or all(name in os.environ for name in needed)


def _join_environment(main: Main, arguments: argparse.Namespace, on_cuda: bool) -> int | None:
    if arguments.num_gpus > 1 or arguments.num_machines > 1:
        raise ValueError(
            f"--num-gpus and --num-machines: got {arguments.num_gpus} and {arguments.num_machines} "
            "in a process that torchrun or Slurm has started, expected 1 and 1. Leave them out: "
            "torchrun's --nproc-per-node and --nnodes say how many"
        )
    missing = [name for name in ENVIRONMENT if name not in os.environ]
    if missing:
        raise ValueError(
            f"environment: got no {', '.join(missing)}, expected {', '.join(ENVIRONMENT)}. Start "
            "with torchrun or tools/slurm.sh, or unset RANK to use --num-gpus"
        )
    local_rank = int(os.environ["LOCAL_RANK"])
    if on_cuda:
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"LOCAL_RANK: got {local_rank} where {torch.cuda.device_count()} GPUs are visible, "
                "expected a smaller number. Start one process for each GPU, and let each see all "
                "GPUs of its machine (Slurm: no --gpus-per-task)"
            )
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if on_cuda else "gloo", timeout=DEFAULT_TIMEOUT)
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    comm.synchronize()
    return leaving_together(main, arguments)


def _forward(number: int, frame: FrameType | None) -> None:
    """Hand a signal on to the processes that were started here."""
    processes = multiprocessing.active_children()
    if not processes:
        raise SystemExit(128 + number)
    for process in processes:
        if process.pid is not None:
            os.kill(process.pid, number)
