"""What all commands share: flags and their errors, the console, the cache."""
import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
from absl import flags, logging
from rich.console import Console
from rich.table import Table

from lib import cpu, report
from lib.experiment import UsageError
from lib.paper import Paper
from lib.train import Interrupted

FLAGS = flags.FLAGS
CACHE = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'classic-convnets'

console = Console(highlight=False)


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser with the exit codes of other programs: 0 after --help, 2 after a mistake, said in one line."""
    if {'-h', '-help', '--help', '--helpshort', '--helpfull'} & set(argv[1:]):
        own = [module for module in FLAGS.flags_by_module_dict() if module.startswith('launch.')]
        print(sys.modules['__main__'].__doc__, FLAGS.main_module_help(), *map(FLAGS.module_help, own), sep='\n')
        sys.exit(0)
    try:
        rest = FLAGS(argv)
    except flags.Error as error:
        _fail(f'{error} --help lists the flags.')
    if rest[1:]:
        _fail(f'{rest[1]!r} is not a flag: flags begin with --, and --help lists them.')
    return rest


def parse_after_name(argv: list[str]) -> list[str]:
    """The same for a command whose first word is a name: takes it off the command line, and gives the flags to their
    parser. The name, if there is one, comes second in the result."""
    if argv[1:] and not argv[1].startswith('-'):
        return [*parse_flags(argv[:1] + argv[2:]), argv[1]]
    return parse_flags(argv)


def named_paper(argv: list[str], papers: Mapping[str, Paper], example: str) -> Paper:
    """The paper whose name comes second in `argv`.

    Raises:
      UsageError: if there is none; the sentence shows the command `example`, in which {} is a paper's name.
    """
    if argv[1:] == [] or argv[1] not in papers:
        given = f'{argv[1]} is not a paper here' if argv[1:] else 'No paper is named'
        raise UsageError(f'{given}: put its name first, as in python -m {example.format(next(iter(papers)))}; the '
                         f'papers are: {", ".join(papers)}.')
    return papers[argv[1]]


def _fail(sentence: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(f'error: {sentence}', markup=False)
    sys.exit(2)


def guarded(action: Callable[[], None]) -> None:
    """Runs a launch script's work; a mistake of the user's, a full disk, too little memory on a device or an
    interruption ends it with one sentence."""
    try:
        action()
    except UsageError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f'{error.filename or "A file"} cannot be read or written ({error.strerror or error}): mend that and run '
              'the same command again.')
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        _fail('The memory of the device is too small: use --set rematerialize=true, a smaller --set '
              'evaluation.batch_size, --mesh with more devices or, in another --workdir, --set '
              'optimizer.accumulation_steps or a smaller batch_size; python -m launch.plan tells what each takes.')
    except Interrupted as interrupted:
        console.print(f'Interrupted; everything up to step {interrupted.step} is saved. Run the same command again to '
                      'continue.', soft_wrap=True)
        sys.exit(130)
    except KeyboardInterrupt:
        console.print('Interrupted. Run the same command again to continue.')
        sys.exit(130)


def prepare() -> None:
    """What a command does before it uses JAX: memory is kept once it is there; so are programs that were compiled once,
    unless the user's cache cannot be written or JAX_COMPILATION_CACHE_DIR names another; and Orbax is kept quiet, which
    would tell of every file it touches."""
    logging.set_verbosity(logging.WARNING)
    cpu.keep_memory()
    programs = CACHE / 'xla'
    with contextlib.suppress(OSError):
        programs.mkdir(parents=True, exist_ok=True)
    if jax.config.jax_compilation_cache_dir is None and os.access(programs, os.W_OK):
        jax.config.update('jax_compilation_cache_dir', str(programs))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)    # a start compiles many small ones


def say(text: str) -> None:
    """Prints a line for a person, as it is and unbroken."""
    console.print(text, markup=False, soft_wrap=True)


def show(grid: Table) -> None:
    """Prints a table as wide as it is."""
    report.whole(grid, console)
