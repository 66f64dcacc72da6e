"""Writes the generated blocks of every README anew from the committed results, and reproductions/index.html, which has
them all on one page: `python -m launch.report`. Comparisons are drawn anew.

With --check nothing is written, and a text that would change ends it with 1.
"""
import sys
from pathlib import Path

from absl import app, flags

from launch import cli
from launch.papers import PAPERS
from lib import figures, overview, readme
from lib.results import kept
from reproductions.gallery.claims import LOOKS

CHECK = flags.DEFINE_bool('check', False, 'Write nothing; exit with 1 if a README is not up to date.')
ROOT = flags.DEFINE_string('root', str(Path(__file__).parent.parent), 'The repository whose READMEs are written.')


def main() -> None:
    cli.prepare()
    root = Path(ROOT.value)
    if not CHECK.value:             # first: a README shows the pictures that are there
        for name, paper in PAPERS.items():
            for place, results in kept(root / 'reproductions' / name).items():
                if 'arms' in results:
                    figures.comparison(results, paper.tables, root / 'reproductions' / name / 'results' / place /
                                       'curve.png')
    texts = readme.regenerate(root, PAPERS, LOOKS)
    texts[root / overview.PLACE] = overview.page(root, texts)
    for path, text in texts.items():
        if path.exists() and path.read_text() == text:
            continue
        if CHECK.value:
            print(f'{path} is not what the committed results say: run python -m launch.report.', file=sys.stderr)
            sys.exit(1)
        path.write_text(text)
        print(f'{path} written.')


if __name__ == '__main__':
    app.run(lambda argv: cli.guarded(main), flags_parser=cli.parse_flags)
