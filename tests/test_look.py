"""launch.visualize as a user types it: flags and their mistakes, the files it writes, images of one's own; and
launch.gallery, which does it for many."""
import json
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from launch import cli, visualize
from launch.cli import FLAGS
from lib import hardware, readme
from lib.data import sources
from lib.experiment import UsageError
from tests import looked_at
from tests.commands import TINY, launch, run_module


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
    """Of a network that has taken two steps on the digits."""
    folder = tmp_path_factory.mktemp('visualize')
    done = launch(*TINY, '--set=steps=2', f'--workdir={folder / "run"}', cache=folder)
    assert done.returncode == 0, done.stderr
    return folder / 'run'


def look(*words):
    """The command in this process, which saves its start and leaves the settings of the tests as they are."""
    FLAGS.unparse_flags()
    with mock.patch.object(cli, 'prepare'):
        visualize.main(cli.parse_after_name(['launch.visualize', *words]), list(words))


def test_the_command_writes_a_picture_its_numbers_and_the_page(workdir):
    step = max(workdir.glob('checkpoints/0*'))      # writes beside the checkpoints, not into one
    flags = ['alexnet', '--method=saliency', f'--workdir={step}', '--layer=conv2', '--unit=[1,3]', '--images=[7,5]',
             '--set=data.validation_split=validation[:9]']
    done = run_module('launch.visualize', *flags, cache=workdir.parent)
    assert done.returncode == 0, done.stderr
    folder = workdir / 'visualize'
    found = json.loads((folder / 'saliency-conv2-unit1,3-image7,5.json').read_text())
    assert found['statement'] in done.stdout and str(folder / 'saliency-conv2-unit1,3-image7,5.png') in done.stdout
    assert found['layer'] == 'conv2' and found['data'] == 'digits validation[:9]'
    assert found['command'].startswith('python -m launch.visualize alexnet --method=saliency')
    assert found['commit'] and found['date'] in (folder / 'index.html').read_text()
    assert 'base64' in (folder / 'index.html').read_text() and not (step / 'visualize').exists()


def test_parameters_of_a_method_are_set_by_name_and_name_the_files(workdir, tmp_path):
    look('alexnet', '--method=kernels', f'--workdir={workdir}', f'--output={tmp_path}', '--set=kernels.dead=0.5')
    found = json.loads((tmp_path / 'kernels-dead0.5.json').read_text())
    assert found['parameters']['dead'] == 0.5 and found['method'] == 'kernels'
    with pytest.raises(UsageError, match='no field .kernels.ded.. Did you mean kernels.dead'):
        look('alexnet', '--method=kernels', f'--workdir={workdir}', '--set=kernels.ded=0.5')
    with pytest.raises(UsageError, match='the network is as it was trained'):
        look('alexnet', '--method=kernels', f'--workdir={workdir}', '--set=data.image_size=40')


def test_images_of_ones_own_are_cut_like_those_of_the_data_and_have_a_label_if_their_folder_has_its_name(
        workdir, tmp_path):
    (tmp_path / '7').mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)).save(tmp_path / '7' / 'a.png')
    Image.new('L', (20, 30), 200).save(tmp_path / 'b.jpg')
    look('alexnet', '--method=predictions', f'--workdir={workdir}', f'--output={tmp_path}/out', f'--images={tmp_path}')
    found = json.loads((tmp_path / 'out' / f'predictions-{tmp_path.name}.json').read_text())
    assert [entry['name'] for entry in found['images']] == ['7', 'no label'] and found['files'] == ['a.png', 'b.jpg']
    out = f'--output={tmp_path}/out'
    look('alexnet', '--method=saliency', f'--workdir={workdir}', out, f'--images={tmp_path}/b.jpg')
    said = json.loads((tmp_path / 'out' / 'saliency-b.json').read_text())['statement']
    assert said.endswith('For an image without a label, the class found most likely stands for the true one.')
    (tmp_path / 'c.png').write_bytes(b'no image')
    with pytest.raises(UsageError, match='c.png cannot be read as an image'):
        look('alexnet', '--method=predictions', f'--workdir={workdir}', f'--images={tmp_path / "c.png"}')


def test_of_a_large_folder_some_images_are_looked_at_and_all_are_searched(workdir, tmp_path):
    (tmp_path / 'many').mkdir()
    for number in range(30):
        Image.new('RGB', (9, 9), (8 * number,) * 3).save(tmp_path / 'many' / f'{number:02}.png')
    asked = [f'--workdir={workdir}', f'--output={tmp_path}/out', f'--images={tmp_path}/many']
    look('alexnet', '--method=predictions', *asked)
    found = json.loads((tmp_path / 'out' / 'predictions-many.json').read_text())
    assert [entry['image'] for entry in found['images']] == [1, 5, 9, 13, 16, 20, 24, 28]
    look('alexnet', '--method=patches', '--layer=conv1', *asked)
    found = json.loads((tmp_path / 'out' / 'patches-conv1-many.json').read_text())
    assert found['searched'] == 30


def test_images_in_folders_of_wordnet_ids_have_labels_where_the_network_tells_imagenet_apart(tmp_path):
    for name in ('n01440764', 'hen', 'n00000000'):
        (tmp_path / name).mkdir()
        Image.new('RGB', (9, 9)).save(tmp_path / name / 'a.png')
    network = looked_at.network()
    of_imagenet = network._replace(classes=sources.imagenet_classes())
    assert looked_at.request(tmp_path, of_imagenet, images=tmp_path).judged.labels.tolist() == [8, -1, 0]
    assert looked_at.request(tmp_path, network, images=tmp_path).judged.labels.tolist() == [-1, -1, -1]


def test_a_folder_of_images_that_does_not_fit_memory_is_refused(tmp_path, monkeypatch):
    for number in range(2):
        Image.new('RGB', (9, 9)).save(tmp_path / f'{number}.png')
    monkeypatch.setattr(hardware, 'host_memory', lambda: 2 * 2 * 10 * 10 * 3)
    with pytest.raises(UsageError, match='the 2 images of .* name a folder with fewer'):
        len(looked_at.request(tmp_path, images=tmp_path).judged)
    monkeypatch.setattr(hardware, 'host_memory', lambda: 2 * 2 * 10 * 10 * 3 + 1)
    assert looked_at.request(tmp_path, images=tmp_path).judged.images.shape == (2, 10, 10, 3)


def test_numbers_may_be_too_many_for_the_name_of_a_file(workdir, tmp_path):
    FLAGS.unparse_flags()
    cli.parse_after_name(['launch.visualize', 'alexnet', f'--images={[*range(99)]}'])
    assert visualize._images() == tuple(range(99))
    look('alexnet', '--method=activations', f'--workdir={workdir}', f'--output={tmp_path}', '--layer=fc8',
         f'--unit={[3] * 99}', '--images=[5]')
    assert (tmp_path / 'activations-fc8-unit3,3,3,3and95more-image5.json').exists()


@pytest.mark.parametrize('flags, sentence', [
    ([], 'No paper is named: put its name first'),
    (['alexnt', '--method=kernels'], 'the papers are: lenet5, alexnet'),
    (['alexnet'], 'Name a --method: one of kernels'),
    (['alexnet', '--method=saliencies', '--workdir=DIR'], 'choose one of kernels'),
    (['alexnet', '--method=kernels'], 'Give one of --workdir'),
    (['alexnet', '--method=neighbours', '--workdir=DIR', '--unit=3'], 'takes no --unit'),
    (['alexnet', '--method=neighbours', '--workdir=DIR', '--layer=conv9'], 'choose one of conv1, norm1, pool1, conv2'),
    (['alexnet', '--method=saliency', '--workdir=DIR', '--layer=conv1', '--unit=99'], 'choose from 0 to 3'),
    (['alexnet', '--method=predictions', '--workdir=DIR', '--images=one'], 'no file or folder that exists'),
    (['alexnet', '--method=predictions', '--workdir=DIR', '--images=[400]'], 'choose numbers from 0 to 359'),
    (['alexnet', '--method=saliency', '--workdir=DIR', '--unit=x'], 'as in --unit=[0,17]'),
    (['alexnet', '--method=compare', '--workdir=DIR'], '--other'),
    (['alexnet', '--method=compare', '--workdir=DIR', '--other=nin:/nowhere'], '/nowhere cannot be read'),
    (['alexnet', '--method=evolution', '--workdir=DIR'], 'checkpoint.keep'),
    (['alexnet', '--method=kernels', '--workdir=DIR', '--output=/proc/nowhere'], 'choose another --output'),
])
def test_a_mistake_is_told_in_one_sentence(workdir, flags, sentence):
    with pytest.raises(UsageError) as error:
        look(*(flag.replace('DIR', str(workdir)) for flag in flags))
    assert sentence in str(error.value) and '\n' not in str(error.value)


def test_the_gallery_asks_every_network_and_keeps_what_is_refused(workdir, tmp_path):
    done = run_module('launch.gallery', f'--networks=one=alexnet:{workdir},alexnet:{workdir}', f'--output={tmp_path}',
                      '--methods=kernels,evolution,receptive_field', cache=workdir.parent)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / 'methods.json').read_text())
    assert list(found) == ['one', 'alexnet']
    for network in found.values():
        assert network['methods']['kernels'] is None and network['methods']['receptive_field'] is None
        assert 'checkpoint.keep' in network['methods']['evolution']
    assert (tmp_path / 'one' / 'kernels-conv2.png').exists() and (tmp_path / 'index.html').exists()


def test_the_readme_of_the_gallery_says_which_methods_work_and_shows_what_was_found(tmp_path):
    folder = tmp_path / 'reproductions' / 'gallery'
    (folder / 'net').mkdir(parents=True)
    (folder / 'README.md').write_text('<!-- generated: methods -->\n<!-- end -->\n'
                                      '<!-- generated: net/kernels -->\n<!-- end -->\n')
    methods = {'one': {'kernels': None, 'guided': 'No ReLU.'}, 'two': {'kernels': None, 'guided': 'No ReLU.'},
               'three': {'kernels': 'No kernel.'}}
    (folder / 'methods.json').write_text(json.dumps({
        name: {'origin': f'{name} here', 'commands': ['python -m launch.gallery'], 'commit': 'abc', 'date': 'today',
               'methods': own} for name, own in methods.items()}))
    (folder / 'net' / 'kernels.json').write_text(json.dumps({
        'method': 'kernels', 'statement': 'A *star*.', 'command': 'python -m launch.visualize',
        'table': {'columns': ['a', 'b'], 'rows': [['x', 1.5]]}}))
    text, = readme.regenerate(tmp_path, {}).values()
    lines = text.splitlines()
    assert '| kernels | works | works | refused (1) |' in lines
    assert '| guided | refused (2) | refused (2) | not run |' in lines
    assert [line for line in lines if line[:1].isdigit()] == ['1. No kernel.', '2. No ReLU.']
    assert '- two: two here (commit abc, today)' in lines
    assert '![kernels](net/kernels.png)' in lines and r'A \*star\*.' in lines and '| x | 1.5 |' in lines
    (folder / 'net' / 'kernels.json').unlink()
    with pytest.raises(UsageError, match='net/kernels.json cannot be read'):
        readme.regenerate(tmp_path, {})
