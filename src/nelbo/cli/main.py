"""The command line: one table of verbs, and the one place where errors become messages and exit codes."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from io import TextIOWrapper

import tyro

from nelbo.cli.archive_files import explained, say
from nelbo.cli.compress import compress
from nelbo.cli.data import data
from nelbo.cli.decompress import check, decompress, list_images, recover
from nelbo.cli.eval import evaluate
from nelbo.cli.freeze import freeze
from nelbo.cli.import_model import import_model
from nelbo.cli.info import info
from nelbo.cli.report import report
from nelbo.cli.sample import sample
from nelbo.cli.schedule import schedule
from nelbo.cli.short_options import expanded
from nelbo.cli.train import train
from nelbo.errors import NelboError

VERBS: dict[str, Callable[..., None]] = {
    "train": train,
    "eval": evaluate,
    "schedule": schedule,
    "sample": sample,
    "compress": compress,
    "decompress": decompress,
    "list": list_images,
    "test": check,
    "recover": recover,
    "freeze": freeze,
    "report": report,
    "info": info,
    "import": import_model,
    "data": data,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command: exit status 0 if all went well, 1 on failure, 2 on wrong usage."""
    if list(sys.argv[1:] if arguments is None else arguments) == ["--version"]:
        from importlib.metadata import version

        print(f"nelbo {version('nelbo')}")
        return
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # Names of files may hold what a terminal's encoding has not.
            stream.reconfigure(errors="backslashreplace")
    _end_by_exception()
    try:
        arguments = expanded(sys.argv[1:] if arguments is None else arguments)
        tyro.extras.subcommand_cli_from_dict(
            VERBS,
            prog="nelbo",
            description="Variational diffusion models, judged in bits per dimension.",
            args=arguments,
        )
        sys.stdout.flush()
    except NelboError as error:
        say(" ".join(str(error).splitlines()))
        sys.exit(1)
    except KeyboardInterrupt:
        print("nelbo: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # The reader of our output has left: what is still buffered goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        print("nelbo: out of memory: give it less at a time, or a larger machine", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        say(explained(error))
        sys.exit(1)


def _end_by_exception() -> None:
    """Lets signals that end the process be exceptions, so that what is half-written is removed."""
    if threading.current_thread() is not threading.main_thread():
        return
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda number, _: sys.exit(128 + number))


def _is_out_of_memory(error: Exception) -> bool:
    """Returns whether there was no memory; PyTorch says so by its own errors."""
    texts = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError) or any(text in str(error) for text in texts)
