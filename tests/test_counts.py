"""Every published network as built against what its paper implies, for all papers: nothing is computed."""
import pytest

from launch.papers import PAPERS
from lib import geometry

NETWORKS = [(paper, name) for paper, known in PAPERS.items() for name in known.counts]


@pytest.mark.parametrize('paper, name', NETWORKS)
def test_counts_are_those_of_the_network_as_built(paper, name):
    published, experiment = PAPERS[paper].counts[name], PAPERS[paper].experiments[name]
    built = geometry.measure(PAPERS[paper].build(experiment), experiment.data.image_size)
    assert built.parameters == published.parameters
    assert built.total == published.total == sum(published.parameters.values())
    assert {layer: built.sizes.get(layer) for layer in published.sizes} == published.sizes
    assert built.multiply_adds == published.multiply_adds
    assert built.receptive_field == published.receptive_field


@pytest.mark.parametrize('paper', PAPERS)
def test_every_paper_has_counts_of_its_network(paper):
    assert set(PAPERS[paper].counts) <= set(PAPERS[paper].experiments) and 'paper' in PAPERS[paper].counts
