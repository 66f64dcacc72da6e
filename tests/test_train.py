"""The loop: interrupted anywhere and continued, it ends with the same bits; it stops where it is told to."""
import dataclasses
import io
import json
import re

import jax
import numpy as np
import pytest
from rich.console import Console

from lib import checkpoint, figures
from lib import mesh as meshes
from lib.data import statistics
from lib.data.sources import Split
from lib.experiment import Checkpoint, Data, Evaluation, Experiment, Optimizer, UsageError
from lib.train import Interrupted, fit, init, make_step
from reproductions.alexnet.model import Model, build

EXPERIMENT = Experiment(
    summary='', source='', published='',
    model=Model(classes=3, widths=(4, 4, 4, 4, 4), fc_width=8, init='scaled', bias_init=0.1),
    data=Data(source='test', image_size=48, crop='random', reflect=True, color_noise=0.1),
    optimizer=Optimizer(learning_rate=0.001, weight_decay=0.0005, schedule='steps', drop_epochs=(2,)),
    batch_size=4, epochs=3, evaluation=Evaluation(batch_size=8, crops='ten'))


def split(n: int, seed: int) -> Split:
    random = np.random.default_rng(seed)
    return Split('test', random.integers(0, 255, (n, 52, 52, 3), np.uint8), random.integers(0, 3, n).astype(np.int32),
                 ('a', 'b', 'c'))


def train(workdir, experiment=EXPERIMENT, stop=lambda: False, mesh='data:1', console=None,
          process=dict):
    workdir.mkdir(exist_ok=True)
    facts = statistics.compute(split(10, 0), experiment.data, workdir / 'cache')
    return fit(build(experiment), experiment, split(10, 0), split(7, 1), facts, meshes.make(mesh), workdir,
               console or Console(quiet=True), stop, process=process)


def stop_after(calls: int):
    """A stop that becomes true at its `calls`-th question, wherever in the loop that is asked."""
    left = [calls]

    def stop():
        left[0] -= 1
        return left[0] < 0
    return stop


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)


def test_interrupted_anywhere_it_ends_with_the_same_bits(tmp_path):
    experiment = dataclasses.replace(EXPERIMENT, checkpoint=Checkpoint(keep=(1,)))
    whole = train(tmp_path / 'whole', experiment)
    assert whole.step == 8 and whole.epoch == pytest.approx(3.2)    # ceil(3 * 10 / 4) steps of 4
    stops = 0
    while True:
        try:
            pieces = train(tmp_path / 'pieces', experiment, stop=stop_after(2))
            break
        except Interrupted:
            stops += 1
    assert stops > 5
    same(whole, pieces)
    assert [(e['step'], e['top1'], e['loss']) for e in pieces.evaluations] == \
        [(e['step'], e['top1'], e['loss']) for e in whole.evaluations]
    assert pieces.errors == whole.errors
    rows = [[{key: value for key, value in row.items() if key != 'images_per_second'}
             for row in figures.metrics(tmp_path / run / 'metrics.jsonl')] for run in ('whole', 'pieces')]
    assert rows[0] == rows[1]
    kept = [sorted(f'{path.parent.name}/{path.name}' for mark in ('permanent', 'best')
                   for path in (tmp_path / run / 'checkpoints').glob(f'*/{mark}')) for run in ('whole', 'pieces')]
    assert kept[0] == kept[1] and '00000003/permanent' in kept[0]


def test_every_process_that_took_a_step_is_told(tmp_path):
    def go(name, steps, **options):
        return train(tmp_path / 'run', dataclasses.replace(EXPERIMENT, steps=steps), process=lambda: {'commit': name},
                     **options).processes

    with pytest.raises(Interrupted):
        go('first', 8, stop=lambda: True)       # in the evaluation before the first step
    assert go('second', 1) == [{'commit': 'second'}]
    assert go('third', 1) == [{'commit': 'second'}]
    assert go('fourth', 2) == [{'commit': 'second'}, {'commit': 'fourth'}]


def test_a_torn_line_takes_no_other_with_it(tmp_path):
    with pytest.raises(Interrupted):
        train(tmp_path / 'run', stop=stop_after(4))
    log = tmp_path / 'run' / 'metrics.jsonl'
    log.write_text(log.read_text() + '{"kind": "tra')
    train(tmp_path / 'run')
    assert [row['step'] for row in figures.metrics(log)] == [0, 3, 3, 5, 5, 8, 8, 8]


def test_crops_and_dropout_change_from_step_to_step_and_with_the_seed():
    """The same parameters and images."""
    task, mesh, images = build(EXPERIMENT), meshes.make('data:1'), split(4, 0)
    facts = statistics.Statistics(np.zeros((52, 52, 3), np.float32), np.ones(3, np.float32),
                                  np.eye(3, dtype=np.float32))

    def loss(number, seed):
        state = init(task, EXPERIMENT, mesh)
        step = make_step(task, dataclasses.replace(EXPERIMENT, seed=seed))
        return float(step(state, images.images, images.labels, facts, np.uint32(number), np.float32(0.1))[1])

    assert loss(0, 0) == loss(0, 0)
    assert len({loss(0, 0), loss(1, 0), loss(0, 1)}) == 3


def test_the_seed_changes_the_run_and_nothing_else_does(tmp_path):
    first = train(tmp_path / 'a')
    same(first, train(tmp_path / 'b'))
    other = train(tmp_path / 'c', dataclasses.replace(EXPERIMENT, seed=1))
    assert not np.array_equal(first.params['fc8']['kernel'], other.params['fc8']['kernel'])


def test_errors_are_of_every_example_under_both_protocols(tmp_path):
    outcome = train(tmp_path / 'run')
    assert [(e['protocol'], e['seen'], e['split']) for e in outcome.errors] == \
        [('ten', 7, 'validation'), ('centre', 7, 'validation')]
    assert [e['step'] for e in outcome.evaluations] == [0, 3, 5, 8]     # epochs 0 to 3


def test_steps_end_a_run_early_and_can_be_taken_back(tmp_path):
    short = train(tmp_path / 'run', dataclasses.replace(EXPERIMENT, steps=2))
    assert short.step == 2 and short.errors[-1]['step'] == 2
    continued = train(tmp_path / 'run')
    assert continued.step == 8
    same(continued, train(tmp_path / 'whole'))


def test_an_evaluation_out_of_turn_drops_no_learning_rate(tmp_path):
    """Steps that end a run early bring one more evaluation; a plateau is counted over those of the whole run."""
    optimizer = Optimizer(learning_rate=1e-9, schedule='plateau', patience=2, drops=3)
    plateau = dataclasses.replace(EXPERIMENT, optimizer=optimizer)
    train(tmp_path / 'run', dataclasses.replace(plateau, steps=4))
    same(train(tmp_path / 'run', plateau), train(tmp_path / 'whole', plateau))
    rates = [[row['learning_rate'] for row in figures.metrics(tmp_path / run / 'metrics.jsonl')
              if row['kind'] == 'train' and row['step'] in (5, 8)] for run in ('run', 'whole')]
    assert rates[0] == rates[1] and rates[0][0] > rates[0][1]


def test_training_ends_below_the_stated_error(tmp_path):
    easy = dataclasses.replace(EXPERIMENT, evaluation=Evaluation(split='train', batch_size=8, stop_below=101.0))
    outcome = train(tmp_path / 'run', easy)
    assert outcome.step == 0 and outcome.errors[0]['split'] == 'train' and outcome.errors[0]['seen'] == 10


def test_named_epochs_the_best_and_the_latest_stay(tmp_path):
    whole = train(tmp_path / 'run', dataclasses.replace(EXPERIMENT, checkpoint=Checkpoint(keep=(1,))))
    kept = tmp_path / 'run' / 'checkpoints'
    assert (kept / '00000008').exists() and len(list(kept.glob('*/best'))) >= 1
    assert [path.parent.name for path in kept.glob('*/permanent')] == ['00000003']
    assert checkpoint.read(tmp_path / 'run' / 'checkpoints' / '00000003').keys() == whole.params.keys()


def test_metrics_are_appended_for_every_step_and_evaluation(tmp_path):
    train(tmp_path / 'run')
    rows = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
    assert [row['step'] for row in rows if row['kind'] == 'train'] == [3, 5, 8]
    assert [row['learning_rate'] for row in rows if row['kind'] == 'train'] == pytest.approx([1e-3, 1e-3, 1e-4])
    assert [(row['step'], row['protocol']) for row in rows if row['kind'] == 'evaluation'] == [
        (0, 'centre'), (3, 'centre'), (5, 'centre'), (8, 'centre'), (8, 'ten')]


def test_a_diverged_training_says_so(tmp_path):
    wild = dataclasses.replace(EXPERIMENT, optimizer=Optimizer(learning_rate=1e30))
    with pytest.raises(UsageError, match='smaller --set optimizer.learning_rate'):
        train(tmp_path / 'run', wild)


def test_a_batch_that_the_mesh_does_not_divide_is_refused(tmp_path):
    with pytest.raises(UsageError, match='does not divide batch_size=4'):
        train(tmp_path / 'run', mesh='data:3')


def test_parts_of_a_batch_that_the_mesh_does_not_divide_are_refused(tmp_path):
    parts = dataclasses.replace(EXPERIMENT, optimizer=Optimizer(learning_rate=0.001, accumulation_steps=2))
    with pytest.raises(UsageError, match='data:4, which does not divide each of the optimizer.accumulation_steps=2'):
        train(tmp_path / 'run', parts, mesh='data:4')


def test_the_memory_of_a_step_is_told_before_the_first(tmp_path):
    """There is room for the parameters and their velocity at least."""
    text = io.StringIO()
    params = train(tmp_path / 'run', console=Console(file=text, width=200)).params
    whole, held, needed = map(float, re.search(
        r'device: (.*) MiB, (.*) of them for .* batch, (.*) while', text.getvalue()).groups())
    assert held > 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(params)) / 2**20 and needed > 0
    assert whole == pytest.approx(held + needed, abs=0.2)


def test_more_labels_than_outputs_are_refused(tmp_path):
    narrow = dataclasses.replace(EXPERIMENT, model=dataclasses.replace(EXPERIMENT.model, classes=2))
    with pytest.raises(UsageError, match='set model.classes to at least 3'):
        train(tmp_path / 'run', narrow)


@pytest.mark.parametrize('field', ['layer_weight_decay', 'layer_learning_rate'])
def test_layers_that_are_not_there_are_named(tmp_path, field):
    wrong = dataclasses.replace(EXPERIMENT, optimizer=Optimizer(0.1, **{field: (('con1', 0.0),)}))
    with pytest.raises(UsageError, match=f'optimizer.{field} names con1; the layers are: conv1, '):
        train(tmp_path / 'run', wrong)


def test_two_devices_train_as_one(tmp_path):
    one, two = train(tmp_path / 'one'), train(tmp_path / 'two', mesh='data:2,model:2')
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), jax.device_get(one.params),
                 jax.device_get(two.params))


def test_a_run_is_not_shortened_after_the_fact(tmp_path):
    train(tmp_path / 'run')
    shorter = train(tmp_path / 'run', dataclasses.replace(EXPERIMENT, epochs=1))
    assert shorter.step == 8 and {e['step'] for e in shorter.errors} == {8}
    with pytest.raises(Interrupted) as interrupted:
        train(tmp_path / 'early', stop=stop_after(6))
    assert interrupted.value.step == 4      # past the evaluation at step 3
    between = train(tmp_path / 'early', dataclasses.replace(EXPERIMENT, epochs=1))
    assert between.step == 4 and {e['step'] for e in between.errors} == {4}
