"""The numbers of the AlexNet paper agree with each other, and with the experiments that reproduce them."""
import math

from lib.tables import Table
from reproductions.alexnet import paper
from reproductions.alexnet.experiments import EXPERIMENTS

TABLES = [table for table in paper.TABLES if isinstance(table, Table)]
NAMED = {name for table in TABLES for row in table.rows for name in (row.experiment, row.minus, *row.members) if name}


def test_every_row_names_an_experiment_that_exists():
    assert sorted(NAMED - set(EXPERIMENTS)) == []


def test_what_was_seen_was_seen_of_experiments_that_exist():
    assert sorted(set(paper.SEEN) - set(EXPERIMENTS)) == []


def test_figure_1_is_run_under_every_condition():
    assert {race.experiment for race in paper.FIGURE_1} == {name for name in EXPERIMENTS if name.startswith('figure1')}


def test_parameters_of_the_layers_sum_to_the_total():
    assert sum(paper.PARAMETERS.values()) == paper.TOTAL


def test_multiply_adds_follow_from_parameters_and_sizes():
    weights = {name: count - paper.SIZES[name][-1] for name, count in paper.PARAMETERS.items()}
    assert sum(math.prod(paper.SIZES[name][:-1]) * count for name, count in weights.items()) == paper.MULTIPLY_ADDS


def test_the_papers_neurons_are_those_of_the_sizes_except_in_conv1():
    counted = {name: math.prod(paper.SIZES[name]) for name in paper.NEURONS_PRINTED}
    assert counted == paper.NEURONS_PRINTED | {'conv1': paper.CONV1_NEURONS}
    assert paper.NEURONS_PRINTED['conv1'] != paper.CONV1_NEURONS


def test_top_5_is_below_top_1_in_every_row():
    for table in TABLES:
        for row in table.rows:
            values = {(column.split, column.metric): value for column, value in zip(table.columns, row.values)}
            for split in ('validation', 'test'):
                top1, top5 = values.get((split, 'top1')), values.get((split, 'top5'))
                assert top1 is None or top5 is None or top5 < top1


def test_the_deltas_are_those_of_the_text():
    text = {row.experiment: row.values for row in paper.DIFFERENCES.rows}
    assert text['one_gpu'] == (1.7, 1.2)
    assert text['no_lrn'] == (1.4, 1.2)
    assert text['non_overlapping_pool'] == (0.4, 0.3)
