"""Real networks with random weights, to look into, and noise to look at."""
import jax
import numpy as np

from launch.papers import PAPERS
from lib.data.sources import Split
from lib.data.statistics import fixed
from lib.trained import Trained
from lib.visualize.request import Request


def request(paper, name, changes=(), images=3, **asked):
    """A request on one of them; `judged` and `train` hold the same images."""
    experiment = PAPERS[paper].choose(name, list(changes))
    task = PAPERS[paper].build(experiment)
    side = experiment.data.image_size
    params = jax.tree.map(np.array, task.init(jax.random.key(0)))
    network = Trained(name, experiment, task, params, fixed((0.0, 0, 0), side), 'random weights', None, 0, 0.0, None)
    pixels = np.random.default_rng(0).integers(0, 256, (images, side, side, 3), np.uint8)
    found = Request(network, PAPERS[paper].first_layer, **asked)
    found.__dict__['judged'] = found.__dict__['train'] = Split('noise', pixels, np.zeros(images, np.int32), ('one',))
    return found


SMALL = ('data.image_size=48', 'data.resize=48', 'model.widths=[4,4,4,4,4]', 'model.fc_width=8')
