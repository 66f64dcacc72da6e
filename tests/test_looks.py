"""Claims that looks at networks of several seeds test, and their place in the README."""
import json

import pytest

from launch.report import LOOKS
from lib import looks, readme
from lib.experiment import UsageError
from lib.looks import Look
from tests.commands import ROOT

OURS = Look('signs mislead', 'more', 'net/fgsm', '0.25', 'error', 'random signs: error')
OTHER = Look('error of their network', '89.4', 'net/fgsm', '0.25', 'error')


def look(error, noise, seed=0):
    return {'data': 'birds test', 'images': 100 if seed else [1, 2], 'network': f'net, seed {seed}',
            'command': f'look {seed}', 'statement': 'one',
            'table': {'columns': ['epsilon', 'error', 'confidence', 'random signs: error', 'confidence'],
                      'rows': [['unchanged', '1.0', '70', '1.0', '70'], ['0.25', str(error), '60', str(noise), '50']]}}


def test_a_direction_is_tested_by_pairs_of_the_same_network():
    found = looks.finding(OURS, [look(80.0, 20.0), look(82.0, 24.0)])
    assert found.ours.startswith('81.00 against 22.00: +59.00 (') and (found.seeds, found.verdict) == (2, 'holds')
    assert looks.finding(OURS, [look(20.0, 80.0), look(24.0, 82.0)]).verdict == 'does not hold'


def test_the_number_of_another_network_tests_nothing():
    found = looks.finding(OTHER, [look(80.0, 20.0), look(82.0, 24.0)])
    assert found.verdict is None and found.ours == '81.0† ± 12.7'              # 12.706 * 2^0.5 / 2^0.5
    mean = looks.finding(Look('mean', '9', 'net/fgsm', None, 'error'), [look(0.1, 0.0), look(0.3, 0.0)])
    assert mean.ours == '0.600† ± 0.635'                                       # means of 1.0 and 0.1, of 1.0 and 0.3


@pytest.mark.parametrize('change, said', [({'row': '0.5'}, "no table with a row '0.5'"),
                                          ({'column': 'loss'}, "and a column 'loss'")])
def test_a_claim_whose_numbers_are_not_there_is_told(change, said):
    fields = dict(claim='', paper='', place='net/fgsm', row='0.25', column='error') | change
    with pytest.raises(UsageError, match=said):
        looks.finding(Look(**fields), [look(80.0, 20.0)])
    with pytest.raises(UsageError, match='net/fgsm has no seed-N.json'):
        looks.finding(OURS, [])


def test_claims_stand_in_the_tables_of_the_readme(tmp_path):
    folder = tmp_path / 'reproductions' / 'gallery' / 'net' / 'fgsm'
    folder.mkdir(parents=True)
    for seed, (error, noise) in enumerate([(80.0, 20.0), (82.0, 24.0)]):
        (folder / f'seed-{seed}.json').write_text(json.dumps(look(error, noise, seed)))
    (tmp_path / 'README.md').write_text('<!-- generated: headline -->\n<!-- end -->\n')
    text = readme.regenerate(tmp_path, {}, (OURS, OTHER))[tmp_path / 'README.md']
    tested, others = text.split('**Runs that test no claim')
    link = '[net/fgsm](reproductions/gallery/README.md#adversarial)'
    assert tested.count(link) == others.count(link) == 1
    assert '| **holds** | - | 2 images of birds test | - | 2 |' in tested
    assert '| 81.0† ± 12.7 | - | 2 images of birds test |' in others


def test_the_gallery_has_what_its_claims_name():
    for one in LOOKS:
        assert looks.finding(one, looks.of_seeds(ROOT / 'reproductions' / 'gallery' / one.place)).seeds == 3
