"""The page of a folder's pictures: it holds them all, needs nothing else, and says of each what it shows."""
import base64
import html.parser
import io
import json

import numpy as np
import pytest
from PIL import Image

from lib.experiment import UsageError
from lib.visualize import page

METHODS = {'kernels': 'Kernels.', 'saliency': 'What a class score depends on.'}


class Reader(html.parser.HTMLParser):
    """Sources of images, links, text, and whether tags close as they opened."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.links, self.text, self.open = [], [], '', []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.sources += [attributes['src']] if 'src' in attributes else []
        self.links += [attributes['href']] if 'href' in attributes else []
        if tag not in ('meta', 'img'):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def look(folder, name, size=(8, 4), **about):
    Image.new('RGB', size, (200, 30, 30)).save(folder / f'{name}.png')
    (folder / f'{name}.json').write_text(json.dumps(about))


def test_the_page_holds_its_pictures_and_says_of_each_what_it_shows(tmp_path):
    (tmp_path / 'other').mkdir()
    look(tmp_path / 'other', 'saliency', (2000, 1000), method='saliency', statement='50 < 60 & "so on".',
         network='net <b>', layer='fc7', units=[3, 17], images=[{'image': 4, 'label': 1}], parameters={'steps': 5},
         command='python -m launch.x', table={'columns': ['epsilon', 'error'], 'rows': [['0.1', 99.5]]})
    look(tmp_path, 'kernels', method='kernels', statement='96 kernels.', parameters={})
    (tmp_path / 'alone.json').write_text('{}')
    path = page.write(tmp_path, 'Inside <net>', METHODS)
    text = path.read_text()
    read = Reader(text)
    assert read.open == [] and path.name == 'index.html'
    pictures = [Image.open(io.BytesIO(base64.b64decode(source.removeprefix('data:image/jpeg;base64,'))))
                for source in read.sources]
    assert [picture.size for picture in pictures] == [(8, 4), (1000, 500)]
    assert all(np.abs(np.subtract(picture.getpixel((3, 2)), (200, 30, 30))).max() < 8 for picture in pictures)
    assert read.links == ['#kernels', '#saliency'] and 'http' not in text
    for said in ('Inside <net>', '96 kernels.', '50 < 60 & "so on".', 'net <b>', 'fc7', '3, 17', 'steps 5',
                 'python -m launch.x', 'epsilon', '99.5', 'What a class score depends on.'):
        assert said in read.text, said
    assert 'width=device-width' in text


def test_a_damaged_file_is_named(tmp_path):
    look(tmp_path, 'kernels', method='kernels', statement='')
    (tmp_path / 'kernels.json').write_text('{"method":')
    with pytest.raises(UsageError, match='kernels.json is damaged: delete it'):
        page.write(tmp_path, 'Inside', METHODS)
