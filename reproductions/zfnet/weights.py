"""Public weights of ZFNet in our form. The authors published none: these are imgclsmob's zfnet and zfnetb (PyTorch)."""
import dataclasses

import jax
import numpy as np

from lib import importers
from lib.experiment import Experiment, UsageError
from lib.importers import Saved
from lib.task import Params
from reproductions.zfnet.experiments import EXPERIMENTS, FEATURES, IMGCLSMOB, WIDE
from reproductions.zfnet.model import build, changed

NAMES = dict(zip((*FEATURES, 'fc8'), (
    'features.stage1.unit1.conv', 'features.stage2.unit1.conv', 'features.stage3.unit1.conv',
    'features.stage3.unit2.conv', 'features.stage3.unit3.conv', 'output.fc1.fc', 'output.fc2.fc', 'output.fc3')))
# What is subtracted from RGB values of 0 to 1, and what they are divided by.
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
LAST_MAPS = (6, 6)                      # pixels of what fc6 reads


def convert(saved: Saved) -> tuple[str, Experiment, Params]:
    """'imgclsmob' or, if layers 3, 4 and 5 are as wide as its, 'imgclsmob_b'; that experiment with the widths, classes
    and channel means of the weights; and these as its parameters, float32.

    The outputs for an image are those of the original: conv1 takes over the scaling of the channels; fc7 and fc8 are
    doubled, because the outputs before them are halved at test time here and doubled in training there.

    Raises:
      UsageError: if the weights are of another network.
    """
    expected = {f'{name}.{part}' for name in NAMES.values() for part in ('weight', 'bias')}
    if set(saved.arrays) != expected:
        raise UsageError(f'{saved.path} has the weights of no ZFNet known here: its authors published none, and the '
                         "files that are read are imgclsmob's zfnet and zfnetb for PyTorch, with "
                         f'features.stage1.unit1.conv.weight to output.fc3.bias; found {importers.some(saved.arrays)}.')
    weights = {layer: (saved.arrays[f'{name}.weight'], saved.arrays[f'{name}.bias']) for layer, name in NAMES.items()}
    width = {layer: bias.size for layer, (_, bias) in weights.items()}
    name = 'imgclsmob_b' if all(width[layer] == maps for layer, maps in WIDE.items()) else 'imgclsmob'
    experiment = EXPERIMENTS[name]
    experiment = dataclasses.replace(
        experiment, summary=f"{experiment.summary.partition(':')[0]} ({'-'.join(map(str, width.values()))})",
        model=dataclasses.replace(experiment.model, layers=changed(IMGCLSMOB, 'width', **width), classes=width['fc8']),
        data=dataclasses.replace(experiment.data, mean=tuple(255 * part for part in MEAN)))
    return name, experiment, _params(saved, experiment, weights)


def _params(saved: Saved, experiment: Experiment, weights: dict[str, tuple[np.ndarray, np.ndarray]]) -> Params:
    kept = 1 - experiment.model.dropout
    wanted = jax.eval_shape(build(experiment).init, jax.random.key(0))
    params = importers.parameters(saved.path, 'ZFNet', wanted, weights, {'fc6': LAST_MAPS}, {'fc7': kept, 'fc8': kept})
    divisors = [255 * deviation for deviation in DEVIATION]
    params['conv1']['kernel'] = importers.divide_channels(params['conv1']['kernel'], divisors)
    return params
