"""Looks inside a trained network: python -m launch.visualize PAPER --workdir=DIR|--weights=FILE --method=METHOD

Each method writes METHOD.png, METHOD.json with the numbers behind it, and index.html, one page with all pictures of the
folder. Its own parameters are set by name: --set occlusion.square=48. --help lists the methods.
"""
import dataclasses
import datetime
import json
import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

from absl import app, flags
from rich.table import Table

from launch import cli, workdir
from launch.papers import PAPERS
from lib import trained
from lib.experiment import UsageError, fields, override, require
from lib.paper import Paper
from lib.trained import Trained
from lib.visualize import (
    activations,
    adversarial,
    adversarial_errors,
    class_model,
    compare,
    confidence_maps,
    correspondence,
    deconvnet,
    embedding,
    evolution,
    features_table,
    invariance,
    kernels,
    neighbours,
    occlusion,
    page,
    patches,
    pooling,
    predictions,
    receptive_field,
    saliency,
    segmentation,
    transfer,
)
from lib.visualize.request import Method, Request

# In the order of the page: what each shows, in a sentence.
METHODS: dict[str, tuple[Method, str]] = {
    'kernels': (kernels.METHOD, 'The kernels of the first layer by group, or with --layer those of another: dead and '
                                'near-duplicate ones, colour, orientation, frequency (AlexNet, Figure 3; ZFNet, '
                                'section 4.1).'),
    'compare': (compare.METHOD, 'The first layers of two networks side by side (ZFNet, Figure 6).'),
    'activations': (activations.METHOD, 'What a layer puts out for an image: its maps, or its units.'),
    'confidence_maps': (confidence_maps.METHOD, 'The maps that a network averages into the scores of its classes, only '
                                                'their greatest activations (NIN, Figure 4).'),
    'patches': (patches.METHOD, 'The image patches of a whole split that excite a unit most, cut at its receptive '
                                'field (ZFNet, Figure 2).'),
    'deconvnet': (deconvnet.METHOD, 'Single activations brought down to the pixels through the switches of max '
                                    'pooling, beside the patches that caused them (ZFNet, Figure 2).'),
    'evolution': (evolution.METHOD, 'The strongest activation of a unit at several checkpoints of a training, brought '
                                    'down to the pixels (ZFNet, Figure 4).'),
    'invariance': (invariance.METHOD, 'How far features move, and what becomes of the true class, as an image is '
                                      'shifted, scaled and rotated (ZFNet, Figure 5).'),
    'occlusion': (occlusion.METHOD, 'What the network says with a grey square over each place of an image (ZFNet, '
                                    'Figure 7).'),
    'correspondence': (correspondence.METHOD, 'Whether covering the same part of several images changes features alike '
                                              '(ZFNet, Table 1).'),
    'saliency': (saliency.METHOD, "The pixels on which a class's score or a unit depends: the gradient (Simonyan et "
                                  'al. 2013, section 3).'),
    'guided': (saliency.GUIDED_METHOD, 'Guided backpropagation from a score or a unit (Springenberg et al. 2014).'),
    'segmentation': (segmentation.METHOD, 'An object cut out by GrabCut, which begins from the saliency (Simonyan et '
                                          'al. 2013, section 3.2).'),
    'class_model': (class_model.METHOD, 'An image that a class or a unit answers to, found by gradient ascent '
                                        '(Simonyan et al. 2013, section 2; Yosinski et al. 2015).'),
    'adversarial': (adversarial.METHOD, 'Images changed so little that a person hardly sees it, and seen as another '
                                        'class (Szegedy et al. 2013; Goodfellow et al. 2014).'),
    'adversarial_errors': (adversarial_errors.METHOD, 'The error on a split that is changed by the fast gradient sign, '
                                                      'by epsilon (Goodfellow et al. 2014).'),
    'transfer': (transfer.METHOD, 'Images changed to mislead one network, shown to another (Szegedy et al. 2013).'),
    'predictions': (predictions.METHOD, 'Images with their most likely classes and, with --layer, those of their '
                                        'nearest training images (AlexNet, Figure 4).'),
    'neighbours': (neighbours.METHOD, "The training images that are nearest in a layer's space, and in pixel space "
                                      '(AlexNet, Figure 4).'),
    'embedding': (embedding.METHOD, "The images of a split laid out by a layer's features: PCA and t-SNE."),
    'table7': (features_table.METHOD, 'How much of the classes each layer tells a linear classifier (ZFNet, Table 7).'),
    'pooling': (pooling.METHOD, 'What max, average and min pooling keep of an image and of a layer.'),
    'receptive_field': (receptive_field.METHOD, 'The pixels that a unit can see, by arithmetic, and those it looks at, '
                                                'by gradient.'),
}
OF_TRUE_CLASS = ('confidence_maps', 'invariance', 'occlusion', 'saliency', 'guided', 'segmentation')
ABOUT = {name: about for name, (_, about) in METHODS.items()}

METHOD = flags.DEFINE_string('method', None, 'one of:\n' + '\n'.join(
    f'{name}: {about}' for name, about in ABOUT.items()))
WORKDIR = flags.DEFINE_string('workdir', None, 'the folder of a run, finished or not, or of one of its checkpoints')
WEIGHTS = flags.DEFINE_string('weights', None, 'a file of public weights or of launch.export, instead of a run')
OUTPUT = flags.DEFINE_string('output', None, 'where the pictures go (default WORKDIR/visualize, or for weights '
                             'runs/PAPER-weights/visualize)')
LAYER = flags.DEFINE_string('layer', None, 'the layer that is looked at (its default depends on the method, and is '
                            'mostly the last but one)')
UNIT = flags.DEFINE_string('unit', None, 'maps or units of the layer, as in --unit=17 or --unit=[3,17]; without it '
                           'they are evenly spaced')
IMAGES = flags.DEFINE_string('images', None, 'a file or folder of images, or numbers of images of the evaluation '
                             'split, as in --images=[0,17]; without it they are evenly spaced')
OTHER = flags.DEFINE_string('other', None, 'a second network, for methods that compare: PAPER:DIR or PAPER:FILE, or '
                            'DIR or FILE of the same paper')
DATA_DIR = flags.DEFINE_string('data_dir', None, 'where TFDS data sets lie (default $TFDS_DATA_DIR or '
                               '~/tensorflow_datasets)')
SET = flags.DEFINE_multi_string('set', [], 'a parameter of the method, as in --set occlusion.square=48, or other data '
                                'to look at, as in --set data.source=imagenette/160px-v2; may be repeated')
OF_DATA = ('data.source', 'data.resize', 'data.train_split', 'data.validation_split', 'evaluation.split',
           'evaluation.batch_size')


def visualize(paper: Paper, words: list[str]) -> None:
    """Does what the flags say; `words` are the command line, for the record."""
    cli.prepare()
    require(METHOD.value is not None, f'Name a --method: one of {", ".join(METHODS)}.')
    require(METHOD.value in METHODS, f'--method={METHOD.value} is not known: choose one of {", ".join(METHODS)}.')
    name, (method, _) = METHOD.value, METHODS[METHOD.value]
    given = {'layer': LAYER.value, 'unit': UNIT.value, 'images': IMAGES.value, 'other': OTHER.value}
    for flag, value in given.items():
        require(not value or flag in method.takes, f'--method={name} takes no --{flag}: leave it out.')
    options, of_data = _settings(name, method)
    require(bool(WORKDIR.value) != bool(WEIGHTS.value),
            'Give one of --workdir=DIR, the folder of a run, and --weights=FILE.')
    network = trained.from_weights(paper, WEIGHTS.value) if WEIGHTS.value else \
        trained.from_workdir(paper, WORKDIR.value)
    network = trained.with_changes(network, of_data, OF_DATA)
    folder = _folder(paper)
    request = Request(network, paper.first_layer, LAYER.value, _numbers('unit', UNIT.value), _images(), _other(paper),
                      DATA_DIR.value, cli.CACHE, folder, _checkpoints())
    images = request.images.stem if request.files else IMAGES.value and _listed('image', request.images)
    parts = [name, LAYER.value, UNIT.value and _listed('unit', request.unit), images, *_own(name)]
    picture = folder / ('-'.join(filter(None, parts)).replace('/', '_') + '.png')
    found, statement = method.look(request, options, picture)
    if name in OF_TRUE_CLASS and request.files and (request.judged.labels < 0).any():
        statement += ' For an image without a label, the class found most likely stands for the true one.'
    about = {'method': name, 'paper': paper.name, 'network': network.origin, 'experiment': network.name,
             'statement': statement, 'parameters': fields(options) if options else {},
             'other': request.other and request.other.origin, 'files': [file.name for file in request.files],
             'command': shlex.join(['python', '-m', 'launch.visualize', *words]), 'commit': workdir.commit(),
             'date': datetime.datetime.now(datetime.UTC).date().isoformat()}
    picture.with_suffix('.json').write_text(json.dumps(about | found, indent=1, ensure_ascii=False) + '\n')
    written = page.write(folder, f'Inside {paper.name} {network.name}', ABOUT)
    cli.say(f'{network.origin}\n{statement}')
    if 'table' in found:
        _print(**found['table'])
    cli.say(f'Written: {picture} and {picture.stem}.json; all pictures so far: {written}')


def _settings(name: str, method: Method) -> tuple[Any, list[str]]:
    """The method's options as set, and the assignments that are for the data."""
    own = [assignment for assignment in SET.value if not assignment.strip().startswith(('data.', 'evaluation.'))]
    of_data = [assignment for assignment in SET.value if assignment not in own]
    if method.options is None:
        require(not own, f'--method={name} has no parameters to set, only the data: leave out '
                         f'{", ".join(f"--set {assignment}" for assignment in own)}.')
        return None, of_data
    settings = dataclasses.make_dataclass('Settings', [(name, type(method.options))], frozen=True)(method.options)
    return getattr(override(settings, own), name), of_data


def _own(name: str) -> list[str]:
    """The parameters of the method as its files are named after them: square48."""
    return [assignment.strip().removeprefix(f'{name}.').replace('=', '') for assignment in SET.value
            if assignment.strip().startswith(f'{name}.')]


def _numbers(flag: str, text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in (text or '').strip('[] ').split(',') if text)
    except ValueError:
        raise UsageError(f'--{flag}={text}: write numbers, as in --{flag}=[0,17].') from None


def _listed(kind: str, numbers: tuple[int, ...]) -> str:
    """Numbers of images or units as a part of a file's name, which has an end."""
    few, more = ','.join(map(str, numbers[:4])), len(numbers) - 4
    return f'{kind}{few}' + f'and{more}more' * (more > 0)


def _images() -> tuple[int, ...] | Path | None:
    if not IMAGES.value:
        return None
    path = Path(IMAGES.value).expanduser()
    if os.path.exists(path):        # Path.exists raises an error where numbers are too long for a name
        return path
    try:
        return _numbers('images', IMAGES.value)
    except UsageError:
        raise UsageError(f'--images={IMAGES.value} is no file or folder that exists: name one, or write numbers of '
                         'images of the evaluation split, as in --images=[0,17].') from None


def _other(paper: Paper) -> Trained | None:
    if not OTHER.value:
        return None
    name, sign, path = OTHER.value.partition(':')
    return trained.find(PAPERS[name], path) if sign and name in PAPERS else trained.find(paper, OTHER.value)


def _checkpoints() -> Path | None:
    return trained.run_folder(WORKDIR.value) / 'checkpoints' if WORKDIR.value else None


def _folder(paper: Paper) -> Path:
    run = trained.run_folder(WORKDIR.value or Path('runs') / f'{paper.name}-weights')
    folder = Path(OUTPUT.value).expanduser().absolute() if OUTPUT.value else run / 'visualize'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UsageError(f'{folder} cannot be written ({error.strerror}): choose another --output.') from error
    return folder


def _print(columns: list[Any], rows: list[list[Any]]) -> None:
    grid = Table(box=None, pad_edge=False)
    for number, column in enumerate(columns):
        grid.add_column(str(column), justify='right' if number else 'left')
    for row in rows:
        grid.add_row(*map(str, row))
    cli.show(grid)


def main(argv: list[str], words: list[str]) -> None:
    visualize(cli.named_paper(argv, PAPERS, 'launch.visualize {} --method=kernels'), words)


if __name__ == '__main__':
    app.run(lambda argv: cli.guarded(lambda: main(argv, sys.argv[1:])), flags_parser=cli.parse_after_name)
