"""Writes the generated blocks of every README anew from the committed results: `python -m launch.report`.

With --check nothing is written, and a block that would change ends it with 1.
"""
import sys
from pathlib import Path

from absl import app, flags

from launch import cli
from launch.papers import PAPERS
from lib import readme

CHECK = flags.DEFINE_bool('check', False, 'Write nothing; exit with 1 if a README is not up to date.')
ROOT = flags.DEFINE_string('root', str(Path(__file__).parent.parent), 'The repository whose READMEs are written.')


def main() -> None:
    cli.prepare()
    for path, text in readme.regenerate(Path(ROOT.value), PAPERS).items():
        if path.read_text() == text:
            continue
        if CHECK.value:
            print(f'{path} is not what the committed results say: run python -m launch.report.', file=sys.stderr)
            sys.exit(1)
        path.write_text(text)
        print(f'{path} written.')


if __name__ == '__main__':
    app.run(lambda argv: cli.guarded(main), flags_parser=cli.parse_flags)
