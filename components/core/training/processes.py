"""Training in several processes on this machine: started, listened to, and ended together."""

import contextlib
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from components.core.compute import child_processes, distributed
from components.core.compute.determinism import seed_everything
from components.core.compute.device import pick_device, place
from components.core.contract.listener import Callbacks, Listener
from components.core.errors import ExpectedError, InputError, NoAnswerError, StepError, UnavailableError
from components.core.fitting.data import Data, open_data
from components.core.machine import cpus, torchrun
from components.core.networks.network import Network
from components.core.settings import Hyperparameters, Settings
from components.core.training.checkpoints import load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerProcess, SpawnProcess

TRAINED_WEIGHTS = "trained.safetensors"
ERRORS_BY_KIND = {"input": InputError, "unavailable": UnavailableError, "silent": NoAnswerError, "failure": StepError}
CASCADE_SECONDS = 2.0  # seconds in which a process that failed, or whose peer did, ends

History = list[dict[str, float]]
Phase = Callable[..., History]  # takes a network, the data, and `listener=`


def in_processes(
    count: int, phase: Phase, network: Network, data: Data, hyperparameters: Hyperparameters, listener: Listener
) -> History:
    """Train in `count` processes of this machine, which divide each batch; return what one process would.

    It has to be called from the main thread: the processes it starts end with the thread that started them.

    Args:
        count: How many, see `process_count`.
        phase: What each of them does with its own copy of the network and of the data; it is pickled.
        network: Gets the trained weights.
        data: The prepared data.
        hyperparameters: Of the network.
        listener: Told by the first process; answers whether to stop.

    Raises:
        StepError: A process failed or was killed; the others have ended too.
    """
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder), network, data.settings, hyperparameters, data.examples.classes, {})
        state = torch.get_rng_state().numpy().tobytes()
        job = _Job(folder, str(data.examples.folder), data.settings, phase, state)
        history: History = []
        receive: dict[str, Callable[..., object]] = {
            "epoch": listener.epoch,
            "note": listener.note,
            "progress": listener.progress,
            "history": history.extend,
        }
        with contextlib.closing(_run(count, job, listener)) as messages:  # whatever `epoch` raises, the processes end
            for kind, *content in messages:
                receive[kind](*content)
        network.load_state_dict(load_file(Path(folder) / TRAINED_WEIGHTS))
    return history


def together(network: Network) -> AbstractContextManager[None]:
    """Inside, this process is one of those that torchrun started, if it did; they compute together."""
    if not torchrun.launched() or distributed.count() > 1:
        return contextlib.nullcontext()
    return distributed.joined(next(network.parameters()).device)


@dataclass(frozen=True)
class _Job:
    """The job that all processes of a training get."""

    folder: str  # of the network, and of what it is trained to
    dataset: str
    settings: Settings
    phase: Phase
    random_state: bytes


def process_count(settings: Settings) -> int:
    """Return the number of processes that a step starts to train in: 1 trains in the step's own.

    Raises:
        InputError: There are fewer GPUs than that, or one of them was named.
    """
    if torchrun.launched():
        return 1
    on_gpu = pick_device(settings.device).type == "cuda"
    gpus = torch.cuda.device_count() if on_gpu else 0
    count = settings.processes or max(1, gpus)
    if count > 1 and ":" in settings.device:
        hint = "Use --device cuda, or --processes 1."
        raise InputError(f"--device {settings.device} is one GPU, but {count} processes need one each.", hint)
    if on_gpu and count > gpus:
        hint = f"Use --processes {gpus}, or --device cpu."
        raise UnavailableError(f"This machine has {gpus} GPUs, but {count} processes need one each.", hint)
    return count


def _run(count: int, job: _Job, listener: Listener) -> Generator[tuple[Any, ...]]:
    """Messages of the processes until all have ended; whatever happens here, none of them is left."""
    context = child_processes.context()
    pipes = [context.Pipe() for _ in range(count)]
    workers: list[ForkServerProcess | SpawnProcess] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for rank, (_, theirs) in enumerate(pipes):
                address = f"file://{folder}/meeting"
                worker = context.Process(
                    target=_work, args=(rank, count, address, theirs, distributed.PEER_TIMEOUT, job), daemon=True
                )
                worker.start()
                workers.append(worker)
                theirs.close()  # so that our end sees the end of its process
            yield from _messages(workers, [ours for ours, _ in pipes], listener)
        finally:
            for worker in workers:
                worker.kill()  # they write nothing that half of could be seen
            for worker in workers:
                worker.join()


def _messages(
    workers: Sequence[BaseProcess], readers: list[Connection], listener: Listener
) -> Iterator[tuple[Any, ...]]:
    """Receive the processes' messages; answer whether to stop, since the step's deadline is kept here."""
    failures: list[tuple[float, str, str, str]] = []
    while readers and not failures and not any(worker.exitcode for worker in workers):
        ready = wait(readers)
        for reader in [reader for reader in readers if reader in ready]:
            try:
                kind, *content = reader.recv()
            except (EOFError, OSError):
                readers.remove(reader)
                continue
            if kind == "failure":
                failures.append(tuple(content))
            elif kind == "stop":
                with contextlib.suppress(OSError):  # it has ended; its exit status says how
                    reader.send(listener.should_stop(*content))
            else:
                yield kind, *content
    wait([worker.sentinel for worker in workers], CASCADE_SECONDS)
    time.sleep(CASCADE_SECONDS / 10)  # one that a signal ended may have left its peers before it has left the system
    for rank, worker in enumerate(workers):
        if worker.exitcode is not None and worker.exitcode < 0:
            name = signal.Signals(-worker.exitcode).name
            sentence = f"Training process {rank} of {len(workers)} was ended by {name}."
            raise StepError(sentence, "Check for a lack of memory, and run again; --processes 1 needs the least.")
    if failures:
        _, kind, sentence, hint = min(failures)  # the first one; those of its peers follow from it
        raise ERRORS_BY_KIND[kind](sentence, hint)
    if any(worker.exitcode for worker in workers):
        raise StepError("A training process exited without an error message.", "See the step's log, and run again.")


def _work(rank: int, count: int, address: str, step: Connection, stuck: timedelta, job: _Job) -> None:
    """One process of the training; number 0 tells what happens and writes the weights."""
    child_processes.end_with_parent()
    torch.set_num_threads(max(1, min(cpus.available() // count, torch.get_num_threads())))
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ |= {name: str(value) for name, value in own.items()}
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one machine: nobody else can connect
    settings = job.settings

    def tell(kind: str, *content: object) -> None:
        if rank == 0:
            step.send((kind, *content))

    def should_stop(seconds: float) -> bool:
        tell("stop", seconds)
        return rank == 0 and bool(step.recv())  # what the first process is told holds for all

    told = Callbacks(partial(tell, "epoch"), partial(tell, "note"), partial(tell, "progress"), should_stop)
    try:
        network, _ = load_checkpoint(Path(job.folder))
        place(network, settings.device)
        seed_everything(settings)
        torch.set_rng_state(
            torch.frombuffer(bytearray(job.random_state), dtype=torch.uint8)
        )  # draws as one process would
        with distributed.joined(pick_device(settings.device), address, stuck):
            history = job.phase(network, open_data(Path(job.dataset), settings), listener=told)
            if rank == 0:
                state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
                save_file(state, Path(job.folder) / TRAINED_WEIGHTS)
            tell("history", history)
    except Exception as error:
        step.send(("failure", time.monotonic(), *_told(error)))
        if isinstance(error, ExpectedError):
            raise SystemExit(1) from None  # all is said
        raise


def _told(error: Exception) -> tuple[str, str, str]:
    if isinstance(error, ExpectedError):
        kinds = (name for name in ("silent", "unavailable") if isinstance(error, ERRORS_BY_KIND[name]))
        return next(kinds, error.kind), error.sentence, error.hint
    reason = traceback.format_exception_only(error)[-1].strip()
    return "failure", f"A training process failed: {reason}.", "See the step's log, and run again."
