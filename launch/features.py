"""Fits a linear classifier on what a layer of a trained network gives, as ZFNet's Table 7 does:
python -m launch.features PAPER --workdir=DIR|--weights=FILE --layer=LAYER --classifier=svm|softmax

The images are those that the network was trained and judged on, or others: --set data.source=folder:~/caltech101. It
writes features-LAYER-CLASSIFIER.json.
"""
import json
import time
from pathlib import Path

from absl import app, flags

from launch import cli
from launch.cli import FLAGS
from launch.papers import PAPERS
from lib import features, trained
from lib.data import sources
from lib.experiment import UsageError, require
from lib.paper import Paper
from lib.visualize import layers

OF_DATA = ('data.source', 'data.resize', 'data.train_split', 'data.validation_split', 'data.train_per_class',
           'data.validation_per_class', 'data.fold', 'evaluation.batch_size')


def define_flags() -> None:
    flags.DEFINE_string('workdir', None, 'the folder of a run, finished or not')
    flags.DEFINE_string('weights', None, 'a file of public weights, instead of a run')
    flags.DEFINE_string('layer', None, 'whose outputs are the features')
    flags.DEFINE_enum('classifier', 'svm', sorted(features.CLASSIFIERS), 'a linear SVM, or a softmax')
    flags.DEFINE_string('output', None, 'where the result goes (default the workdir, or for weights '
                        'runs/PAPER-weights)')
    flags.DEFINE_string('data_dir', None, 'where TFDS data sets lie (default $TFDS_DATA_DIR or ~/tensorflow_datasets)')
    flags.DEFINE_multi_string('set', [], 'other data, as in --set data.source=imagenette/160px-v2; may be repeated')


def main(argv: list[str]) -> None:
    run(cli.named_paper(argv, PAPERS, 'launch.features {} --layer=NAME'))


def run(paper: Paper) -> None:
    cli.prepare()
    require(bool(FLAGS.workdir) != bool(FLAGS.weights),
            'Give one of --workdir=DIR, the folder of a run, and --weights=FILE.')
    network = trained.from_weights(paper, FLAGS.weights) if FLAGS.weights else \
        trained.from_workdir(paper, FLAGS.workdir)
    network = trained.with_changes(network, FLAGS.set, OF_DATA)
    task, data, layer = network.task, network.experiment.data, FLAGS.layer
    names = layers(task.activations, network.params, data)
    require(layer in names, f'--layer={layer} is not in this network: choose one of {", ".join(names)}.')
    folder = _folder(paper)
    began = time.monotonic()
    train, judged = sources.load(data, FLAGS.data_dir, cli.CACHE)
    found = features.measure(task.activations, layer, network.params, network.statistics, data, train, judged,
                             FLAGS.classifier, network.experiment.evaluation.batch_size, folder)
    about = {'paper': paper.name, 'network': network.name, 'origin': network.origin, 'layer': layer,
             'classifier': FLAGS.classifier, 'train': train.name, 'train_examples': len(train), 'data': judged.name,
             'statement': features.statement(found), 'seconds': time.monotonic() - began}
    path = folder / f'features-{layer}-{FLAGS.classifier}.json'
    path.write_text(json.dumps(about | found, indent=1, ensure_ascii=False) + '\n')
    cli.say(f'{network.origin}\n{FLAGS.classifier} on {layer}, fitted on {len(train):,} images of {train.name}, judged '
            f'on {judged.name}:\n{about["statement"]}\nWritten: {path}')


def _folder(paper: Paper) -> Path:
    run = trained.run_folder(FLAGS.workdir or Path('runs') / f'{paper.name}-weights')
    folder = Path(FLAGS.output).expanduser().absolute() if FLAGS.output else run
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f'{folder} cannot be written ({error.strerror}): choose another --output.') from error
    return folder


if __name__ == '__main__':
    define_flags()
    app.run(lambda argv: cli.guarded(lambda: main(argv)), flags_parser=cli.parse_after_name)
