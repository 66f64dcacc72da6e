"""One HTML page of all pictures in a folder. It holds them itself, needs no network, and is readable on a phone."""
import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from lib.experiment import UsageError

NAME = 'index.html'
WIDEST = 1000               # pixels of a picture in the page; the file beside it may have more
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 76rem; margin: 0 auto; padding: 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-top: 1px solid #ddd; padding-top: 1rem }
figure { margin: 1.5rem 0 } img { max-width: 100%; height: auto; border: 1px solid #e4e4e4 }
figcaption { overflow-wrap: anywhere } dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 .8rem;
font-size: .85rem; color: #555; margin: .5rem 0 } dd { margin: 0; min-width: 0 }
.table { overflow-x: auto } table { border-collapse: collapse; font-size: .9rem }
th, td { padding: .15rem .7rem .15rem 0; text-align: right; border-bottom: 1px solid #eee }
th:first-child, td:first-child { text-align: left } nav a { margin-right: .8rem; display: inline-block }
code { font-size: .8rem }
"""
# Of a caption.
FACTS = ('network', 'layer', 'layers', 'units', 'data', 'images', 'files', 'parameters', 'other', 'command',
         'commit', 'date')


def write(folder: Path, title: str, methods: Mapping[str, str]) -> Path:
    """Writes the page of a folder's pictures: those with a .json of the same name beside them, as launch.visualize
    leaves them.

    Args:
      methods: {method: what it shows}, in the order of the page.

    Raises:
      UsageError: if a .json is damaged, or the page cannot be written.
    """
    pictures = [(path, _read(path)) for path in sorted(folder.rglob('*.json'))
                if path.with_suffix('.png').exists()]
    there = [method for method in methods if any(about['method'] == method for _, about in pictures)]
    links = ' '.join(f'<a href="#{method}">{method.replace("_", " ")}</a>' for method in there)
    parts = [f'<h1>{html.escape(title)}</h1>', f'<nav>{links}</nav>']
    for method in there:
        parts.append(f'<h2 id="{method}">{method.replace("_", " ")}</h2><p>{html.escape(methods[method])}</p>')
        parts += [_figure(path, about) for path, about in pictures if about['method'] == method]
    page = ('<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
            f'content="width=device-width, initial-scale=1"><title>{html.escape(title)}</title><style>{STYLE}</style>'
            f'</head><body>\n' + '\n'.join(parts) + '\n</body></html>\n')
    try:
        (folder / NAME).write_text(page)
    except OSError as error:
        raise UsageError(f'{folder / NAME} cannot be written ({error.strerror}): choose another --output.') from error
    return folder / NAME


def _read(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text())
        return {key: about[key] for key in ('method', 'statement')} | about
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f'{path} is damaged: delete it and look again.') from error


def _figure(path: Path, about: dict[str, Any]) -> str:
    picture = base64.b64encode(reduced(path.with_suffix('.png'))).decode()
    facts = ''.join(f'<dt>{name}</dt><dd>{_words(about[name])}</dd>' for name in FACTS if about.get(name))
    table = f'<div class="table">{_table(**about["table"])}</div>' if 'table' in about else ''
    return (f'<figure><img alt="{html.escape(about["statement"], quote=True)}" '
            f'src="data:image/jpeg;base64,{picture}"><figcaption><p>{html.escape(about["statement"])}</p>{table}'
            f'<dl>{facts}</dl></figcaption></figure>')


def reduced(path: Path) -> bytes:
    """A picture as JPEG of at most WIDEST pixels, a small part of the bytes of its PNG."""
    with Image.open(path) as whole:
        image = whole.convert('RGB')
    if image.width > WIDEST:
        image = image.resize((WIDEST, round(image.height * WIDEST / image.width)), Image.Resampling.LANCZOS)
    found = io.BytesIO()
    image.save(found, 'JPEG', quality=88)
    return found.getvalue()


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        value = ', '.join(f'{key} {_plain(inner)}' for key, inner in value.items())
    elif isinstance(value, Sequence) and not isinstance(value, str):
        value = ', '.join(map(_plain, value))
    return html.escape(_plain(value))


def _plain(value: Any) -> str:
    """Of an image described at length, its number or file."""
    return str(value['image']) if isinstance(value, Mapping) and 'image' in value else str(value)


def _table(columns: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    def line(cells, tag):
        return '<tr>' + ''.join(f'<{tag}>{html.escape(str(cell))}</{tag}>' for cell in cells) + '</tr>'
    return f'<table>{line(columns, "th")}{"".join(line(row, "td") for row in rows)}</table>'
