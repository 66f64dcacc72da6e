"""Overrides, their errors, and differences."""
import dataclasses

import pytest

from lib.experiment import UsageError, diff, override
from reproductions.alexnet.experiments import PAPER


@pytest.mark.parametrize('assignment, path, expected', [
    ('optimizer.learning_rate=0.02', ('optimizer', 'learning_rate'), 0.02),
    ('optimizer.learning_rate=1', ('optimizer', 'learning_rate'), 1.0),
    ('model.dropout=0', ('model', 'dropout'), 0.0),
    ('model.lrn_own_group=false', ('model', 'lrn_own_group'), False),
    ('data.source=imagenette/160px-v2', ('data', 'source'), 'imagenette/160px-v2'),
    ('data.train_split=train[:40000]', ('data', 'train_split'), 'train[:40000]'),
    ('data.resize=none', ('data', 'resize'), None),
    ('checkpoint.keep=[1,2,5,10]', ('checkpoint', 'keep'), (1, 2, 5, 10)),
    ('evaluation.examples=10', ('evaluation', 'examples'), 10),
    ('model.activation=tanh', ('model', 'activation'), 'tanh'),
    ('optimizer.layer_weight_decay=[("fc8", 1)]', ('optimizer', 'layer_weight_decay'), (('fc8', 1.0),)),
    ('starts_with=[conv1, conv2]', ('starts_with',), ('conv1', 'conv2')),
    ('epochs=1', ('epochs',), 1)])
def test_override_sets_the_field_with_its_type(assignment, path, expected):
    value = override(PAPER, [assignment])
    for name in path:
        value = getattr(value, name)
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize('assignment, message', [
    ('model.dropot=0', 'Did you mean model.dropout'),
    ('dropout=0', 'Did you mean model.dropout'),
    ('model=3', 'no field'),
    ('model.dropout.rate=3', 'no field'),
    ('summary=other', 'no field'),
    ('epochs=1.5', 'takes a whole number'),
    ('epochs=true', 'takes a whole number'),
    ('epochs=', 'takes a whole number'),
    ('model.lrn_own_group=1', 'takes true or false'),
    ('model.dropout=much', 'takes a number'),
    ('model.activation=sigmoid', 'one of relu, tanh'),
    ('checkpoint.keep=3', r'a list \[...\] of a whole number'),
    ('checkpoint.keep=[1,"a"]', r'a list \[...\] of a whole number'),
    ('evaluation.examples=all', 'a whole number or none'),
    ('batch_size=0', 'at least 1'), ('steps=0', 'at least 1'), ('seed=-1', 'at least 0'),
    ('optimizer.learning_rate=0', 'positive'), ('optimizer.momentum=1', 'below 1'), ('model.dropout=1', 'below 1'),
    ('model.groups=3', r'must divide each of model.widths'), ('model.widths=[96]', 'five positive numbers'),
    ('evaluation.examples=0', 'at least 1'), ('evaluation.batch_size=0', 'at least 1'),
    ('data.pixel_scale=0', 'positive'),
    ('optimizer.rates=[(30,0.1),(0,1)]', 'in the order of their epochs'), ('batch_size={[]:1}', 'a whole number'),
    ('epochs', 'has no value')])
def test_override_refuses_in_one_sentence(assignment, message):
    with pytest.raises(UsageError, match=message):
        override(PAPER, [assignment])


def test_unknown_field_lists_the_fields():
    with pytest.raises(UsageError, match='optimizer.momentum.*evaluation.crops'):
        override(PAPER, ['momentun=0'])


def test_diff_names_what_departs_and_the_published_value():
    ours = override(PAPER, ['model.dropout=0', 'epochs=1'])
    assert diff(ours, PAPER) == {'model.dropout': (0.5, 0.0), 'epochs': (90, 1)}
    assert diff(dataclasses.replace(PAPER, summary='other'), PAPER) == {}


def test_steps_cover_every_image_as_often_as_there_are_epochs():
    experiment = dataclasses.replace(PAPER, batch_size=128, epochs=90)
    assert experiment.steps_at(1, 128) == 1 and experiment.steps_at(1, 129) == 2
    assert experiment.total_steps(1_281_167) == 900_821     # ceil(90 * 1,281,167 / 128)
    assert dataclasses.replace(experiment, steps=50).total_steps(1_281_167) == 50


@pytest.mark.parametrize('assignments', [['batch_size=32', 'optimizer.fc_batch=8'],
                                         ['model.widths=[9,9,9,9,9]', 'model.groups=3']])
def test_assignments_are_checked_together_whatever_their_order(assignments):
    """Each pair fits together, and neither of the two fits what was there."""
    published = override(PAPER, ['optimizer.fc_batch=64'])
    assert override(published, assignments) == override(published, assignments[::-1])
    with pytest.raises(UsageError, match='must divide'):
        override(published, assignments[:1])
