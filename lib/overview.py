"""All results on one HTML page, beside the READMEs that it shows. It needs no network."""
import re
from collections.abc import Mapping
from pathlib import Path

from markdown_it import MarkdownIt

PLACE = Path('reproductions') / 'index.html'
TITLE = 'Classic convolutional networks, reproduced'
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 76rem; margin: 0 auto; padding: 1rem }
h1 { font-size: 1.6rem } h2, h3 { margin-top: 2rem } section { border-top: 2px solid #ddd; margin-top: 3rem }
img { max-width: 100%; height: auto } pre { overflow-x: auto; background: #f6f6f6; padding: .6rem }
table { border-collapse: collapse; font-size: .85rem; display: block; overflow-x: auto }
th, td { padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #eee; vertical-align: top }
nav a { margin-right: .8rem } li { overflow-wrap: anywhere }
"""


def page(root: Path, texts: Mapping[Path, str]) -> str:
    """The page: what was measured, from the README at the top, then the README of each folder of reproductions.

    Args:
      root: of the repository.
      texts: {path of a README: its text}.
    """
    top = texts[root / 'README.md']
    measured = re.search(r'^## Measured so far\n(.*?)^## ', top, re.DOTALL | re.MULTILINE)
    folders = {path.parent.name: text for path, text in texts.items() if path.parent.parent == root / 'reproductions'}
    parts = [f'<h1>{TITLE}</h1>',
             '<nav>' + ' '.join(f'<a href="#{name}">{name}</a>' for name in folders) + '</nav>',
             _html('## Measured so far\n' + (measured[1] if measured else ''), '')]
    parts += [f'<section id="{name}">{_html(text, name)}</section>' for name, text in folders.items()]
    return ('<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
            f'content="width=device-width, initial-scale=1"><title>{TITLE}</title><style>{STYLE}</style></head><body>\n'
            + '\n'.join(parts) + '\n</body></html>\n')


def _html(text: str, folder: str) -> str:
    """Markdown as HTML, its links and anchors as they are on the page: those of results get their folder's name."""
    rendered = MarkdownIt('commonmark', {'html': True}).enable('table').render(text)
    rendered = re.sub(r'<!-- .*? -->\n?', '', rendered)
    if folder:
        rendered = re.sub(r'(id="|href="#)', rf'\g<1>{folder}-', rendered)
    rendered = re.sub(r'href="(?:\.\./|reproductions/)(\w+)/README\.md(?:#(\w+))?"',
                      lambda link: f'href="#{"-".join(filter(None, link.groups()))}"', rendered)
    return re.sub(r'(src|href)="(?![#/]|\w+:)', rf'\g<1>="{folder}/' if folder else r'\g<1>="../', rendered)
