"""Writes the network of a run as one small file: python -m launch.export PAPER --workdir=DIR --output=FILE

The file holds the parameters as 16-bit numbers, the means of the training set and what the network is, in the format
safetensors. Every command that takes --weights=FILE takes it.
"""
from pathlib import Path

from absl import app, flags

from launch import cli
from launch.cli import FLAGS
from launch.papers import PAPERS
from lib import compact, trained
from lib.experiment import require


def define_flags() -> None:
    flags.DEFINE_string('workdir', None, 'the folder of a run, finished or not, or of one of its checkpoints')
    flags.DEFINE_string('output', None, 'the file, whose name should end in .safetensors')


def main(argv: list[str]) -> None:
    paper = cli.named_paper(argv, PAPERS, 'launch.export {} --workdir=DIR --output=FILE')
    cli.prepare()
    require(bool(FLAGS.workdir) and bool(FLAGS.output), 'Name --workdir=DIR, the folder of a run, and --output=FILE.')
    path = Path(FLAGS.output).expanduser().absolute()
    network = trained.export(paper, FLAGS.workdir, path)
    cli.say(f'{network.origin}\nRounded to 16 bits, no parameter changes by more than '
            f'{compact.rounding(network.params):.1e} of the largest beside it.\nWritten: {path} '
            f'({path.stat().st_size:,} bytes)')


if __name__ == '__main__':
    define_flags()
    app.run(lambda argv: cli.guarded(lambda: main(argv)), flags_parser=cli.parse_after_name)
