"""The author's public weights of his network for ImageNet, a caffemodel, in our form."""
import dataclasses

import jax
import numpy as np

from lib import importers
from lib.experiment import Experiment, UsageError
from lib.importers import Saved
from lib.task import Params
from reproductions.nin.experiments import EXPERIMENTS
from reproductions.nin.model import Dropout, Layer, MLPConv, build, named

# The layers of the last block have their maps in their names.
CAFFE_NAMES = {'conv1': 'conv1', 'cccp1': 'cccp1', 'cccp2': 'cccp2', 'conv2': 'conv2', 'cccp3': 'cccp3',
               'cccp4': 'cccp4', 'conv3': 'conv3', 'cccp5': 'cccp5', 'cccp6': 'cccp6', 'conv4': 'conv4-1024',
               'cccp7': 'cccp7-1024', 'cccp8': 'cccp8-1024'}
# The channel means, RGB, of the mean image that Caffe subtracts; it comes in a file of its own.
CAFFE_MEAN = (122.67891434, 116.66876762, 104.00698793)


def convert(saved: Saved) -> tuple[str, Experiment, Params]:
    """'imagenet', that experiment with the widths of a file's network and channel means, and the weights as its
    parameters, float32.

    The outputs for an image are those of the original: conv1 takes over the order of the channels; conv4 is doubled,
    because the outputs before it are halved at test time here and doubled in training there.

    Raises:
      UsageError: if the weights are not of this network.
    """
    if set(saved.arrays) != {f'{name}.{number}' for name in CAFFE_NAMES.values() for number in (0, 1)}:
        raise UsageError(f'{saved.path} has not the weights of the NIN for ImageNet: expected the layers '
                         f'{", ".join(CAFFE_NAMES.values())} with weights and biases (Caffe), found '
                         f'{importers.some(saved.arrays)}.')
    weights = {layer: (saved.arrays[f'{name}.0'], saved.arrays[f'{name}.1']) for layer, name in CAFFE_NAMES.items()}
    experiment = _as_wide_as(weights)
    kept = dict.fromkeys(_after_dropout(experiment.model.layers), 1 - experiment.model.dropout)
    wanted = jax.eval_shape(build(experiment).init, jax.random.key(0))
    params = importers.parameters(saved.path, 'the NIN for ImageNet', wanted, weights, {}, kept)
    params['conv1']['kernel'] = importers.swap_red_and_blue(params['conv1']['kernel'])
    return 'imagenet', experiment, params


def _as_wide_as(weights: dict[str, tuple[np.ndarray, np.ndarray]]) -> Experiment:
    experiment, stack = EXPERIMENTS['imagenet'], []
    for names, layer in named(experiment.model.layers):
        if isinstance(layer, MLPConv):
            maps, *widths = (weights[name][1].size for name in names)
            layer = dataclasses.replace(layer, maps=maps, widths=tuple(widths))
        stack.append(layer)
    maps = '-'.join(str(bias.size) for _, bias in weights.values())
    return dataclasses.replace(
        experiment, summary=f"the author's NIN for ImageNet ({maps} maps) with channel means, since its mean image is "
                            'not in the file',
        model=dataclasses.replace(experiment.model, layers=tuple(stack)),
        data=dataclasses.replace(experiment.data, mean=CAFFE_MEAN))


def _after_dropout(stack: tuple[Layer, ...]) -> set[str]:
    """The layers that read what dropout has changed."""
    layers = list(named(stack))
    return {names[0] for (_, before), (names, _) in zip(layers, layers[1:]) if isinstance(before, Dropout)}
