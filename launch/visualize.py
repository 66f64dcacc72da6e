"""Looks inside a trained network: python -m launch.visualize PAPER --workdir=DIR|--weights=FILE --method=METHOD

kernels      of the first layer, by group, and how much of them is colour
predictions  images of the evaluation split with their five most likely classes
neighbours   the training images that are nearest to an image in a layer's space, and in pixel space

Each writes METHOD.png, and METHOD.json with the numbers behind it.
"""
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from launch import cli
from launch.papers import PAPERS
from lib import trained
from lib.data import sources
from lib.experiment import UsageError, require
from lib.paper import Paper
from lib.trained import Trained
from lib.visualize import examples, kernels, layers, neighbours, predictions

METHOD = flags.DEFINE_string('method', None, 'kernels, predictions or neighbours')
WORKDIR = flags.DEFINE_string('workdir', None, 'the folder of a run, finished or not')
WEIGHTS = flags.DEFINE_string('weights', None, 'a file of public weights, instead of a run')
OUTPUT = flags.DEFINE_string('output', None, 'where the pictures go (default WORKDIR/visualize, or for weights '
                             'runs/PAPER-weights/visualize)')
LAYER = flags.DEFINE_string('layer', None, 'of neighbours: whose vectors are compared (default the last but one)')
IMAGES = flags.DEFINE_string('images', None, 'of predictions and neighbours: numbers of images of the evaluation '
                             'split, as in --images=[0,17]; without it they are evenly spaced')
DATA_DIR = flags.DEFINE_string('data_dir', None, 'where TFDS data sets lie (default $TFDS_DATA_DIR or '
                               '~/tensorflow_datasets)')
SET = flags.DEFINE_multi_string('set', [], 'other data to look at, as in --set data.source=imagenette/160px-v2; may '
                                'be repeated')
OF_DATA = ('data.source', 'data.resize', 'data.train_split', 'data.validation_split', 'evaluation.split',
           'evaluation.batch_size')


def visualize(paper: Paper) -> None:
    cli.prepare()
    require(METHOD.value is not None, f'Name a --method: one of {", ".join(METHODS)}.')
    require(METHOD.value in METHODS, f'--method={METHOD.value} is not known: choose one of {", ".join(METHODS)}.')
    require(bool(WORKDIR.value) != bool(WEIGHTS.value),
            'Give one of --workdir=DIR, the folder of a run, and --weights=FILE.')
    images = _numbers()
    network = trained.from_weights(paper, WEIGHTS.value) if WEIGHTS.value else \
        trained.from_workdir(paper, WORKDIR.value)
    network = trained.with_changes(network, SET.value, OF_DATA)
    folder = _folder(paper)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UsageError(f'{folder} cannot be written ({error.strerror}): choose another --output.') from error
    picture = folder / ('-'.join(filter(None, (METHOD.value, LAYER.value))) + '.png')
    found, statement = METHODS[METHOD.value](paper, network, images, picture)
    about = {'method': METHOD.value, 'paper': paper.name, 'network': network.name, 'origin': network.origin,
             'statement': statement}
    picture.with_suffix('.json').write_text(json.dumps(about | found, indent=1, ensure_ascii=False) + '\n')
    cli.say(f'{network.origin}\n{statement}\nWritten: {picture} and {picture.stem}.json')


def _kernels(paper: Paper, network: Trained, images: list[int], picture: Path) -> tuple[dict[str, Any], str]:
    _unused('kernels', layer=LAYER.value, images=IMAGES.value, set=SET.value)
    weights = np.asarray(network.params[paper.first_layer]['kernel'])
    groups = getattr(network.experiment.model, 'groups', 1)
    found = kernels.measure(weights, groups)
    data = network.experiment.data
    trained_on = [] if WEIGHTS.value else [f'trained on {data.source} {data.train_split}']
    kernels.draw(weights, groups, f'Kernels of {paper.first_layer}', [network.origin, *trained_on], picture)
    return {'layer': paper.first_layer} | found, kernels.statement(found)


def _predictions(paper: Paper, network: Trained, images: list[int], picture: Path) -> tuple[dict[str, Any], str]:
    _unused('predictions', layer=LAYER.value)
    split, data = _judged(network), network.experiment.data
    found = predictions.measure(network.task.predict, network.params, network.statistics, data, split,
                                examples(split, images, 8))
    predictions.draw(found, split, data, 'The most likely classes', _lines(network, split, images), picture)
    return {'data': split.name} | found, predictions.statement(found)


def _neighbours(paper: Paper, network: Trained, images: list[int], picture: Path) -> tuple[dict[str, Any], str]:
    task, data = network.task, network.experiment.data
    names = layers(task.activations, network.params, data)
    layer = LAYER.value or names[-2]
    require(layer in names, f'--layer={layer} is not in this network: choose one of {", ".join(names)}.')
    split = _judged(network)
    train = sources.load_one(data, 'train', DATA_DIR.value, cli.CACHE)
    found = neighbours.measure(task.activations, layer, network.params, network.statistics, data, split,
                               examples(split, images, 5), train, network.experiment.evaluation.batch_size)
    lines = [*_lines(network, split, images), f'neighbours: {len(train):,} images of {train.name}']
    neighbours.draw(found, split, train, data, f'Nearest training images in {layer}', lines, picture)
    return {'layer': layer, 'data': split.name, 'train': train.name} | found, neighbours.statement(found)


METHODS = {'kernels': _kernels, 'predictions': _predictions, 'neighbours': _neighbours}


def _folder(paper: Paper) -> Path:
    run = trained.run_folder(WORKDIR.value or Path('runs') / f'{paper.name}-weights')
    return Path(OUTPUT.value).expanduser().absolute() if OUTPUT.value else run / 'visualize'


def _judged(network: Trained) -> sources.Split:
    experiment = network.experiment
    split = sources.load_one(experiment.data, experiment.evaluation.split, DATA_DIR.value, cli.CACHE)
    trained.require_same_classes(network, split)
    return split


def _lines(network: Trained, split: sources.Split, images: list[int]) -> list[str]:
    rule = f'images {", ".join(map(str, images))}' if images else 'evenly spaced images'
    return [network.origin, f'{rule} of {split.name}, central crop of {network.experiment.data.image_size} pixels']


def _unused(method: str, **given: str | list[str] | None) -> None:
    for flag, value in given.items():
        require(not value, f'--method={method} takes no --{flag}: leave it out.')


def _numbers() -> list[int]:
    try:
        return [int(number) for number in (IMAGES.value or '').strip('[] ').split(',') if IMAGES.value]
    except ValueError:
        raise UsageError(f'--images={IMAGES.value}: write numbers of images, as in --images=[0,17].') from None


def main(argv: list[str]) -> None:
    visualize(cli.named_paper(argv, PAPERS, 'launch.visualize {} --method=kernels'))


if __name__ == '__main__':
    app.run(lambda argv: cli.guarded(lambda: main(argv)), flags_parser=cli.parse_after_name)
