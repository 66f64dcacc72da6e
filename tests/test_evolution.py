"""Units over the checkpoints of a training, made by hand: what each was at each step."""
import dataclasses
import json

import numpy as np
import pytest
from matplotlib import image

from lib.checkpoint import Checkpoints
from lib.experiment import UsageError
from lib.visualize import deconvnet, evolution
from lib.visualize.evolution import Options
from tests.random_networks import SMALL, request

LAYER = 'conv1'


def changed(params, order, bias):
    """The parameters with the units of the layer in another order, and other biases."""
    layer = {'kernel': params[LAYER]['kernel'][..., order], 'bias': np.array(bias, np.float32)}
    return params | {LAYER: layer}


def trained(folder, changes=SMALL, steps=((10, (0, 1, 2, 3), (50, 60, -1e6, 40)), (20, (1, 0, 2, 3), (60, 50, 30, 40))),
            name='params', **asked):
    """A request to a network at the last of its steps (number, order of units, biases)."""
    found = request('alexnet', 'quickstart', changes, images=6, layer=LAYER, **asked)
    with Checkpoints(folder) as checkpoints:
        for step, order, bias in steps:
            params = changed(found.network.params, list(order), bias)
            checkpoints.save(step, {'params': found.network.params, name: params}, {'epoch': step / 10}, permanent=True)
    network = found.network._replace(params=params)
    again = dataclasses.replace(found, network=network, checkpoints=folder)
    again.__dict__['judged'] = found.judged
    return again


def test_units_are_followed_over_the_checkpoints(tmp_path):
    asked = trained(tmp_path / 'checkpoints', unit=(0, 1, 2, 3))
    numbers, cells = evolution.measure(asked, Options())
    numbers = json.loads(json.dumps(numbers))
    assert (numbers['steps'], numbers['epochs']) == ([10, 20], [1, 2])
    first, second, silent, same = (unit['strongest'] for unit in numbers['found'])
    assert first[0] == second[1] and first[1] == second[0] and first[0] != first[1]     # they changed places
    assert same[0] == same[1] and silent[0] is None and silent[1]['activation'] > 0
    np.testing.assert_array_equal(cells[0][0].projection, cells[1][1].projection)
    np.testing.assert_array_equal(cells[3][0].patch, cells[3][1].patch)
    assert cells[2][0] is None and abs(cells[2][1].projection).max() > 0
    last = dataclasses.replace(asked, unit=(1,))
    last.__dict__['judged'] = asked.judged
    _, ((down, seen),) = deconvnet.measure(last, deconvnet.Options(count=1))
    np.testing.assert_allclose(cells[1][1].projection, down[0], rtol=1e-5)
    np.testing.assert_array_equal(cells[1][1].patch, seen[0])
    assert [unit['like_last'][0] for unit in numbers['found']][2:] == [None, pytest.approx(1)]
    assert numbers['found'][3]['image_of_last'] == [True, True]
    assert numbers['found'][2]['image_of_last'] == [False, True]
    assert first[0]['image'] != first[1]['image'] and numbers['found'][0]['image_of_last'] == [False, True]


def test_the_picture_and_the_statement_tell_each_checkpoint(tmp_path):
    asked = trained(tmp_path / 'checkpoints', unit=(2, 3))
    numbers, said = evolution.look(asked, Options(), tmp_path / 'evolution.png')
    assert 'each of 2 units of conv1 in 6 images of noise, at 2 checkpoints from epoch 1 to 2' in said
    assert 'at epoch 1 the image is that of the last checkpoint for 1 of the units, and' in said
    assert said.count(' 1.00') == 1 and 'at epoch 2 ' not in said
    assert [row[:4] for row in numbers['table']['rows']] == [['1', 10, 1, 1], ['2', 20, 0, 2]]
    assert image.imread(tmp_path / 'evolution.png').std() > 0.05


def test_projections_that_nothing_comes_down_to_are_said_to_be_blank(tmp_path):
    order = (0, 1, 2, 3)
    asked = trained(tmp_path / 'checkpoints', unit=(0, 3), steps=[(1, order, (1, 1, 1, 1)), (2, order, (9, 9, 9, 9))])
    kernel = asked.network.params[LAYER]['kernel']
    silenced = asked.network.params | {LAYER: {'kernel': 0 * kernel, 'bias': np.ones(4, np.float32)}}
    with Checkpoints(tmp_path / 'checkpoints') as checkpoints:
        checkpoints.save(1, {'params': silenced}, {'epoch': 1})
    numbers, said = evolution.look(asked, Options(), tmp_path / 'evolution.png')
    assert [unit['blank'] for unit in numbers['found']] == [[True, False]] * 2
    assert said.endswith(' 2 projections are blank: no signal comes down, as from a saturated unit.')


def test_checkpoints_are_evenly_chosen_with_the_first_and_last_and_without_damaged_ones(tmp_path):
    steps = [(step, (0, 1, 2, 3), (50, 50, 50, 50)) for step in (1, 2, 3, 4, 5, 6)]
    asked = trained(tmp_path, steps=steps)
    chosen = evolution.chosen_checkpoints(asked, 3)
    assert [int(folder.name) for folder in chosen] == [1, 3, 6]
    (tmp_path / '00000001' / 'progress.json').write_text('{"epoch": 7}')       # not what was saved
    assert [int(folder.name) for folder in evolution.chosen_checkpoints(asked, 12)] == [2, 3, 4, 5, 6]


def test_averaged_parameters_are_read_where_the_network_uses_them(tmp_path):
    asked = trained(tmp_path, (*SMALL, 'optimizer.averaging=0.9'), name='average')
    moment = evolution.at_checkpoint(asked, tmp_path / '00000010')
    np.testing.assert_array_equal(moment.params[LAYER]['bias'], np.float32([50, 60, -1e6, 40]))
    assert moment.network.step == 10


def test_without_several_checkpoints_it_is_refused_in_one_sentence(tmp_path):
    asked = trained(tmp_path, steps=[(10, (0, 1, 2, 3), (0, 0, 0, 0))])
    with pytest.raises(UsageError, match=r'holds 1 checkpoint, .* --set checkpoint.keep=\[1,2,5\]'):
        evolution.measure(asked, Options())
    with pytest.raises(UsageError, match='a file of weights has none: give the --workdir'):
        evolution.measure(request('alexnet', 'quickstart', SMALL, layer=LAYER), Options())
    with pytest.raises(UsageError, match='no ReLUs.*--set evolution.rule=gradient'):
        evolution.measure(request('lenet5', 'paper', layer='C3'), Options())
