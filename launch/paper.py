"""The command line of a paper's launch script."""
from absl import app, flags

from launch import cli, evaluation, training
from launch.cli import FLAGS
from lib.experiment import require
from lib.paper import Paper


def main(paper: Paper) -> None:
    """Runs the command line as `paper`. Exits with 0, with 2 and one sentence on a mistake of the user's, or with 130
    when interrupted."""
    flags.DEFINE_string('experiment', 'paper', 'what to run; --list prints the choices')
    flags.DEFINE_string('workdir', None, 'where everything is written (default runs/PAPER-EXPERIMENT)')
    flags.DEFINE_string('data_dir', None, 'where TFDS data sets lie (default $TFDS_DATA_DIR or ~/tensorflow_datasets)')
    flags.DEFINE_multi_string('set', [], 'change a field, as in --set model.dropout=0; may be repeated')
    flags.DEFINE_string('mesh', 'data:1', 'devices, as in data:2,model:2; a CPU becomes as many as are needed')
    flags.DEFINE_string('init_from', None, 'start training from the network of another workdir, or from a file of '
                        'public weights; a last layer of another size is new')
    flags.DEFINE_bool('eval_only', False, 'measure the error of the network in --workdir, or of --weights, and stop')
    flags.DEFINE_string('weights', None, 'with --eval_only: a file of public weights (.pth, .safetensors, .caffemodel)')
    flags.DEFINE_list('ensemble', None, 'measure the error of several networks, their predictions averaged: '
                      'workdirs or files of weights, separated by commas')
    flags.DEFINE_list('arms', None, 'of a comparison: train these arms only, and report no others')
    flags.DEFINE_bool('list', False, 'print the experiments and what each reproduces')
    app.run(lambda argv: cli.guarded(lambda: _run(paper)), flags_parser=cli.parse_flags)


def _run(paper: Paper) -> None:
    require(FLAGS.eval_only or not FLAGS.weights, '--weights is for --eval_only; to train on from a file of weights, '
                                                  'name it with --init_from.')
    evaluates = FLAGS.eval_only or FLAGS.ensemble is not None
    require(not (evaluates and FLAGS['experiment'].present), '--experiment is for training: the network that is '
                                                             'evaluated brings its own.')
    require(not (evaluates and FLAGS.arms is not None), '--arms is for training: leave it out.')
    require(not (evaluates and FLAGS.init_from), '--init_from is for training: leave it out.')
    cli.prepare()
    if FLAGS.list:
        _list(paper)
    elif FLAGS.ensemble is not None:
        evaluation.ensemble(paper)
    elif FLAGS.eval_only:
        evaluation.single(paper)
    else:
        training.run(paper)


def _list(paper: Paper) -> None:
    width = max(map(len, paper.experiments)) + 2
    for name, experiment in paper.experiments.items():
        cli.say(f'{name:{width}}{experiment.summary} ({experiment.source})')
