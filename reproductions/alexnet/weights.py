"""AlexNet's public weights in our form: torchvision's file, and the AlexNet and the CaffeNet of Caffe (BVLC).

None of them is the paper's own network: the experiments 'torchvision', 'caffe' and 'caffenet' say what each changes.
"""
import dataclasses

import jax
import numpy as np

from lib import importers
from lib.experiment import Experiment, UsageError, require
from lib.importers import Saved
from lib.task import Params
from reproductions.alexnet.experiments import EXPERIMENTS
from reproductions.alexnet.model import LAYERS, build

TORCHVISION_NAMES = dict(zip(LAYERS, ('features.0', 'features.3', 'features.6', 'features.8', 'features.10',
                                      'classifier.1', 'classifier.4', 'classifier.6')))
# What torchvision subtracts from RGB values of 0 to 1, and divides them by.
TORCHVISION_MEAN = (0.485, 0.456, 0.406)
TORCHVISION_DEVIATION = (0.229, 0.224, 0.225)
# The channel means, RGB, of the mean image that Caffe subtracts; it comes in a file of its own.
CAFFE_MEAN = (122.67891434, 116.66876762, 104.00698793)
CAFFE_NORM = (5, 1e-4, 0.75, 1.0)       # n, alpha, beta, k: the same in both
CAFFE_ORDERS = {'caffe': ('Convolution', 'LRN', 'Pooling') * 2, 'caffenet': ('Convolution', 'Pooling', 'LRN') * 2}
CAFFE_NETWORKS = {'alexnet': 'caffe', 'caffenet': 'caffenet'}
LAST_MAPS = (6, 6)                      # pixels of what fc6 reads


def convert(saved: Saved) -> tuple[str, Experiment, Params]:
    """The name of the experiment that describes a file's network, it, and the weights as its parameters, float32.

    The experiment is 'torchvision', 'caffe' or 'caffenet' with the widths, classes and channel means of the weights;
    its summary says which network it is. The outputs for an image are those of the original: conv1 takes over the
    scaling and the order of the channels; fc7 and fc8 are doubled, because the outputs before them are halved at test
    time here and doubled in training there. In training torchvision has its dropout elsewhere: before fc6 and fc7.

    Raises:
      UsageError: if the weights are of none of these networks.
    """
    names = set(saved.arrays)
    if names == {f'{name}.{part}' for name in TORCHVISION_NAMES.values() for part in ('weight', 'bias')}:
        return _torchvision(saved)
    if names == {f'{layer}.{number}' for layer in LAYERS for number in (0, 1)}:
        return _caffe(saved)
    raise UsageError(
        f'{saved.path} has the weights of no AlexNet known here: expected features.0.weight to classifier.6.bias '
        f'(torchvision) or the layers conv1 to fc8 with weights and biases (Caffe), found {importers.some(names)}.')


def _torchvision(saved: Saved) -> tuple[str, Experiment, Params]:
    weights = {layer: (saved.arrays[f'{name}.weight'], saved.arrays[f'{name}.bias'])
               for layer, name in TORCHVISION_NAMES.items()}
    summary = "torchvision's AlexNet ({widths} maps, no groups, no LRN, 224 pixels with a border of 2)"
    mean = tuple(255 * part for part in TORCHVISION_MEAN)
    experiment, params = _fit(saved, 'torchvision', summary, weights, mean)
    divisors = [255 * deviation for deviation in TORCHVISION_DEVIATION]
    params['conv1']['kernel'] = importers.divide_channels(params['conv1']['kernel'], divisors)
    return 'torchvision', experiment, params


def _caffe(saved: Saved) -> tuple[str, Experiment, Params]:
    weights = {layer: (saved.arrays[f'{layer}.0'], saved.arrays[f'{layer}.1']) for layer in LAYERS}
    variant = _caffe_variant(saved)
    which = {'caffe': "Caffe's AlexNet (LRN, then pooling", 'caffenet': "Caffe's CaffeNet (pooling, then LRN"}[variant]
    summary = which + ', {widths} maps, 227 pixels) with channel means, since its mean image is not in the file'
    experiment, params = _fit(saved, variant, summary, weights, CAFFE_MEAN)
    params['conv1']['kernel'] = importers.swap_red_and_blue(params['conv1']['kernel'])
    return variant, experiment, params


def _fit(saved: Saved, name: str, summary: str, weights: dict[str, tuple[np.ndarray, np.ndarray]],
         mean: tuple[float, ...]) -> tuple[Experiment, Params]:
    """The experiment of that name, as wide as the weights, and the weights in its layout; of conv1 the input channels
    are still as in the file."""
    *widths, fc_width, _, classes = (bias.size for _, bias in weights.values())
    experiment = EXPERIMENTS[name]
    experiment = dataclasses.replace(
        experiment, summary=summary.format(widths='-'.join(map(str, widths))),
        model=dataclasses.replace(experiment.model, widths=tuple(widths), fc_width=fc_width, classes=classes),
        data=dataclasses.replace(experiment.data, mean=mean))
    kept = 1 - experiment.model.dropout
    wanted = jax.eval_shape(build(experiment).init, jax.random.key(0))
    return experiment, importers.parameters(saved.path, name, wanted, weights, {'fc6': LAST_MAPS},
                                            {'fc7': kept, 'fc8': kept})


def _caffe_variant(saved: Saved) -> str:
    """'caffe' or 'caffenet', by the order of the layers; by the network's name if only layers with weights are in the
    file."""
    norms = [layer.response_norm for layer in saved.layers if layer.response_norm]
    for norm in norms:
        require(norm.across and np.allclose(norm[:4], CAFFE_NORM),
                f"{saved.path} has {norm}, not the LRN of Caffe's networks: n=5, alpha=0.0001, beta=0.75, k=1.")
    order = tuple(layer.type for layer in saved.layers if layer.type in ('Convolution', 'LRN', 'Pooling'))
    if 'LRN' in order or 'Pooling' in order:
        for variant, expected in CAFFE_ORDERS.items():
            if order[:6] == expected and len(norms) == 2:
                return variant
        raise UsageError(f"{saved.path} is neither Caffe's AlexNet nor its CaffeNet: its layers are "
                         f"{', '.join(order)}.")
    require(saved.network.lower() in CAFFE_NETWORKS,
            f"{saved.path} may be of Caffe's AlexNet or of its CaffeNet: it has only layers with weights, so name the "
            f'network AlexNet or CaffeNet in it; the name it has is {saved.network!r}.')
    return CAFFE_NETWORKS[saved.network.lower()]
