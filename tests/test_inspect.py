"""What is said of a network in words and in tables: launch.inspect, and the table of networks in the README."""
import dataclasses
import functools
import json
import subprocess
import sys

import pytest

from launch import cli, inspect
from launch.papers import PAPERS
from lib import explain, geometry, readme, report
from lib.experiment import UsageError
from lib.tables import Column, Row, Table
from tests.commands import ROOT


@functools.cache
def network(paper, name='paper'):
    experiment = PAPERS[paper].experiments[name]
    return geometry.measure(PAPERS[paper].build(experiment), experiment.data.image_size)


def told(paper, layer, name='paper'):
    return '\n'.join(explain.layer(network(paper, name), layer))


def shown(capsys, paper, name='paper', assignments=(), explained=None, as_json=False):
    inspect.inspect(PAPERS[paper], name, assignments, explained, as_json)
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def console(monkeypatch):
    monkeypatch.setattr(cli, 'console', cli.Console(highlight=False))      # that writes where pytest looks


# -------------------------------------------------------------------------------------------------------- one layer

@pytest.mark.parametrize('paper, name, layer, sentence', [
    ('alexnet', 'paper', 'conv1', '1 + ceil((224 - 11) / 4) = 55'),
    ('alexnet', 'paper', 'conv1', '11x11x3x96 + 96 = 34,944 (not 55x55x96x3, as study notes have it)'),
    ('alexnet', 'paper', 'conv1', 'the last window overhangs by 3 pixels of zeros at the right and bottom.'),
    ('alexnet', 'paper', 'conv1', 'any image of 224 to 227 pixels gives 55 places; 227 is exact.'),
    ('alexnet', 'input_227', 'conv1', '1 + (227 - 11) / 4 = 55'),
    ('alexnet', 'torchvision', 'conv1', '1 + floor((224 + 2 * 2 - 11) / 4) = 55'),
    ('alexnet', 'torchvision', 'conv1', 'rounded down, the border of 2 is 1 wide at the right and bottom.'),
    ('nin', 'imagenet', 'conv1', 'no window reads the last 1 pixel at the right and bottom.'),
    ('nin', 'paper', 'pool1', 'overhangs by 1 pixel at the right and bottom, where there is nothing'),
    ('nin', 'paper', 'poolg', 'one window of 8x8 places, all there are, leaves one number a map.'),
    ('alexnet', 'paper', 'pool1', 'Parameters: pooling has none.'),
    ('alexnet', 'paper', 'pool1', '11 + (3 - 1) x 4 = 19 pixels a side, 4 x 2 = 8 apart; the first begins at pixel 0.'),
    ('alexnet', 'paper', 'conv2', 'A border of (5 - 1) / 2 = 2 on all sides keeps the size.'),
    ('alexnet', 'paper', 'conv2', '5x5x48x256 = 307,200 weights instead of 5x5x96x256 = 614,400 with groups=1'),
    ('alexnet', 'paper', 'fc6', '6x6x256x4096 + 4096 = 37,752,832'),
    ('lenet5', 'paper', 'S2', '6 + 6 = 12: a coefficient and a bias a map.'),
    ('lenet5', 'paper', 'C3', '60 of the 6x16 = 96 pairs of maps have a kernel; with all of them it would be '
                              '5x5x6x16 = 2,400 weights.'),
    ('googlenet', 'paper', 'inception_3a', 'the largest of 27, 43, 59, 43 pixels'),
    ('googlenet', 'paper', 'inception_3a_5x5', '192x16 + 5x5x16x32 = 15,872 weights and 12,443,648 multiply-adds; 5x5 '
                                               'without its reduction would take 5x5x192x32 = 153,600 and 120,422,400'),
    ('googlenet', 'paper', 'inception_3a_3x3', '3x3 without its reduction would take 3x3x192x128 = 221,184'),
    ('googlenet', 'paper', 'inception_5b', 'That is more than the 224 of the image: the rest is border.'),
])
def test_the_arithmetic_of_a_layer(paper, name, layer, sentence):
    assert sentence in told(paper, layer, name)


def test_only_what_is_there_is_told_of():
    text = told('alexnet', 'conv3')
    assert 'Groups' not in text and 'reduction' not in text and 'divide' not in text and 'Connections' not in text
    assert explain.reductions(network('nin')) == []     # a 1x1 layer there is followed by pooling


def test_a_1x1_layer_that_others_read_too_is_no_reduction():
    inception = network('googlenet')
    other = dataclasses.replace(inception['pool5'], reads=('inception_3a_3x3_reduce',))
    pairs = explain.reductions(dataclasses.replace(inception, layers=(*inception.layers, other)))
    assert len(pairs) == 17 and 'inception_3a_3x3_reduce' not in {before.name for before, _ in pairs}


# ------------------------------------------------------------------------------------------------------ the network

def test_small_windows_in_a_stack_are_compared_with_a_large_one():
    first, three, jump = explain.lessons(network('vgg', 'D_glorot'))
    assert first.startswith('conv3_1 to conv3_3: 3 layers of 3x3 at stride 1 see 1 + L(K - 1) = 1 + 3 x 2 = 7 places')
    assert 'with 27 C^2 weights instead of 49 C^2' in first
    assert three.startswith('Three 3x3 layers, not two, see as far as one 7x7')
    assert jump.startswith('1 + L(K - 1) holds for stride 1 only') and '16 + 3 x 2 x 4 = 40.' in jump
    assert explain.lessons(network('nin')) == []
    two, three = explain.lessons(network('vgg', 'B'))
    assert two.startswith('conv1_1 to conv1_2: 2 layers of 3x3 at stride 1 see 1 + L(K - 1) = 1 + 2 x 2 = 5 places')


def test_what_groups_and_reductions_save_in_all():
    grouped = explain.lessons(network('alexnet'))[-1]
    assert '60,965,224 parameters instead of 62,378,344' in grouped and '1,135,256,096.' in grouped
    assert network('alexnet', 'one_tower').total == 62_378_344      # what it says is what is built
    assert network('alexnet', 'one_tower').multiply_adds == 1_135_256_096
    reduced, = explain.lessons(network('googlenet'))
    assert reduced.startswith('1x1 reductions: 18 convolutions read fewer maps') and '4.2 times the work' in reduced


def test_lessons_of_papers_are_about_networks_that_are_so(capsys):
    text = shown(capsys, 'alexnet', 'caffe', explained='conv1')
    assert '224 or 227? 224 is the original' in text and 'overhang' in text
    for name in ('paper', 'caffe', 'torchvision'):
        assert network('alexnet', name)['conv1'].size[0] == 55
    assert '224 or 227' not in shown(capsys, 'alexnet', 'cifar_80sec', explained='conv1')
    ours, other = (PAPERS[paper].counts['paper'].parameters for paper in ('zfnet', 'alexnet'))
    assert [layer for layer in other if ours[layer] < other[layer]] == ['conv1']
    for number in (ours['conv1'], other['conv1'], sum(ours.values()), sum(other.values())):
        assert f'{number:,}' in PAPERS['zfnet'].lessons['paper']['conv1']


# -------------------------------------------------------------------------------------------------------- the table

def test_as_built_stands_beside_as_published(capsys):
    text = shown(capsys, 'alexnet')
    line = next(line for line in text.splitlines() if line.split()[:1] == ['conv2'])
    assert line.split() == ('conv2 convolution 27x27x256 5x5 1 2 2 307,456 223,948,800 729.0 1,201.0 51 8 -16 the '
                            'same').split()
    assert 'As published and as built agree in everything.' in text and '60,965,224 parameters (232.6 MiB' in text


def test_where_they_differ_the_published_number_and_the_difference_are_shown(capsys):
    text = shown(capsys, 'alexnet', assignments=['model.groups=1'])
    assert '307,456 parameters' in next(line for line in text.splitlines() if line.split()[:1] == ['conv2'])
    assert '60,965,224 parameters (+1,413,120 here), 724,406,816 multiply-adds (+410,849,280 here)' in text
    assert 'groups' not in text.splitlines()[4]
    text = shown(capsys, 'alexnet', 'without_conv4')
    assert 'not here: conv4.' in text


def test_layers_of_training_only_are_listed(capsys):
    text = shown(capsys, 'googlenet')
    assert 'in training only' in next(line for line in text.splitlines() if line.startswith(' aux_4a_fc '))


def test_of_a_comparison_the_base_is_shown_and_its_arms_are_named(capsys):
    note = 'To see an arm: --experiment=cifar_paired/ARM, of published, no_overlap, '
    assert note in shown(capsys, 'alexnet', 'cifar_paired')
    assert 'To see an arm' not in shown(capsys, 'alexnet', 'cifar_paired/no_overlap')


def test_json_is_all_there_is_and_has_every_number(capsys):
    found = json.loads(shown(capsys, 'alexnet', assignments=['model.groups=1'], explained='conv1', as_json=True))
    conv1 = found['layers'][0]
    assert conv1['window'] == {'size': 11, 'stride': 4, 'padding': [0, 3]}
    assert conv1['shapes'] == {'kernel': [11, 11, 3, 96], 'bias': [96]}
    assert (found['total'], found['set'], found['receptive_field']) == (62_378_344, ['model.groups=1'], 195)
    assert found['published']['departures']['conv2: parameters'] == {'published': 307_456, 'built': 614_656}
    assert any('34,944' in line for line in found['explained']['conv1'])


@pytest.mark.parametrize('name, assignments, explained, said', [
    ('papre', [], None, "alexnet has no experiment 'papre'"),
    ('paper', [], 'conv9', '--explain=conv9 is not a layer of paper: choose all, or one of conv1, norm1'),
    ('paper', ['model.grups=1'], None, 'Did you mean model.groups'),
])
def test_what_does_not_exist_is_named(name, assignments, explained, said):
    with pytest.raises(UsageError, match=said):
        inspect.inspect(PAPERS['alexnet'], name, assignments, explained, False)


@pytest.mark.parametrize('flags, code, said', [
    (['lenet', '--json'], 2, 'lenet is not a paper here: put its name first, as in python -m launch.inspect'),
    (['lenet5', '--experiment=caffe', '--explain=C1'], 0, '1 + (28 - 5) / 1 = 24'),
])
def test_the_command(flags, code, said):
    done = subprocess.run([sys.executable, '-m', 'launch.inspect', *flags], cwd=ROOT, capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == code and said in done.stdout + done.stderr
    assert code == 0 or len(done.stderr.splitlines()) == 1 and done.stdout == ''


# ------------------------------------------------------------------------------------- the networks of the README

def test_every_published_network_has_a_line_in_the_readme():
    text = (ROOT / 'README.md').read_text()
    for paper in PAPERS.values():
        for counts in paper.counts.values():
            line, = (line for line in text.splitlines() if line.startswith(f'| [{counts.network}](reproductions/'))
            assert f'| {counts.total:,} | {counts.multiply_adds:,} | {counts.receptive_field} |' in line


def test_a_network_that_is_not_built_as_published_is_not_written_down(tmp_path):
    (tmp_path / 'README.md').write_text('<!-- generated: networks -->\n<!-- end -->\n')
    paper = PAPERS['lenet5']
    wrong = dataclasses.replace(paper.counts['paper'], multiply_adds=1)
    with pytest.raises(UsageError, match=r'lenet5 paper is not built as its counts say \(multiply_adds\)'):
        readme.regenerate(tmp_path, {'lenet5': dataclasses.replace(paper, counts={'paper': wrong})})


COLUMNS = (Column('Train', 'top1', 'train'), Column('Val', 'top1', 'validation'),
           Column('Val 5', 'top5', 'validation'), Column('Test 5', 'top5', 'test'))


def table(*rows):
    return Table('T', 'birds', 'birds', COLUMNS, rows)


def test_the_first_row_of_a_network_is_of_itself_and_of_images_that_it_was_not_trained_on():
    tables = [table(Row('less', (1.0, 1.0, 1.0, 1.0), 'net', minus='other'),
                    Row('several', (1.0, 1.0, 1.0, 1.0), members=('net', 'net'))),
              table(Row('seen', (9.0, None, None, None), 'net'), Row('it', (1.0, 2.0, None, 4.0), 'net'),
                    Row('later', (1.0, 3.0, 3.0, 3.0), 'net'))]
    _, row, columns = report.first_row(tables, 'net')
    assert row.name == 'it' and columns == {'top1': 1, 'top5': 3}
    assert report.first_row(tables, 'other') is None
