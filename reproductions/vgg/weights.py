"""VGG's public weights in our form: torchvision's vgg11, 13, 16 and 19, and the authors' own of 16 and 19 layers in
Caffe's format."""
import dataclasses

import jax
import numpy as np

from lib import importers
from lib.experiment import Experiment, UsageError, require
from lib.importers import Saved
from lib.task import Params
from reproductions.vgg.experiments import EXPERIMENTS
from reproductions.vgg.model import CONFIGURATIONS, FULLY_CONNECTED, build, convolutions

TORCHVISION = {'A': 'vgg11', 'B': 'vgg13', 'D': 'vgg16', 'E': 'vgg19'}
# What torchvision subtracts from RGB values of 0 to 1, and divides them by.
TORCHVISION_MEAN = (0.485, 0.456, 0.406)
TORCHVISION_DEVIATION = (0.229, 0.224, 0.225)
CAFFE = {'D': 'VGG_ILSVRC_16_layers', 'E': 'VGG_ILSVRC_19_layers'}
CAFFE_MEAN = (123.68, 116.779, 103.939)         # RGB
LAST_MAPS = (7, 7)                              # pixels of what fc6 reads


def torchvision_names(configuration: str) -> dict[str, str]:
    """torchvision's name of every layer: an activation follows each convolution, and pooling each block."""
    names, place = {}, 0
    for block, windows in enumerate(CONFIGURATIONS[configuration], 1):
        for number in range(1, len(windows) + 1):
            names[f'conv{block}_{number}'] = f'features.{place}'
            place += 2
        place += 1
    return names | dict(zip(FULLY_CONNECTED, ('classifier.0', 'classifier.3', 'classifier.6')))


def convert(saved: Saved) -> tuple[str, Experiment, Params]:
    """The name of the experiment that describes a file's network, it, and the weights as its parameters, float32.

    The experiment is 'torchvision_A' and so on, or 'D_jitter' or 'E_jitter', which the authors' files are, with the
    widths, classes and channel means of the weights. The outputs for an image are those of the original: conv1_1 takes
    over the scaling and the order of the channels; fc7 and fc8 are doubled, because the outputs before them are halved
    at test time here and doubled in training there.

    Raises:
      UsageError: if the weights are of none of these networks.
    """
    arrays = saved.arrays
    require(not any(name.endswith('.running_mean') for name in arrays),
            f"{saved.path} has torchvision's VGG with batch normalisation, which is another network: use vgg11, vgg13, "
            'vgg16 or vgg19 without _bn.')
    for configuration, network in TORCHVISION.items():
        names = torchvision_names(configuration)
        if set(arrays) == {f'{name}.{part}' for name in names.values() for part in ('weight', 'bias')}:
            weights = {layer: (arrays[f'{name}.weight'], arrays[f'{name}.bias']) for layer, name in names.items()}
            name, mean = f'torchvision_{configuration}', tuple(255 * part for part in TORCHVISION_MEAN)
            experiment, params = _fit(saved, name, f"torchvision's {network}", weights, mean)
            divisors = [255 * deviation for deviation in TORCHVISION_DEVIATION]
            params['conv1_1']['kernel'] = importers.divide_channels(params['conv1_1']['kernel'], divisors)
            return name, experiment, params
    for configuration, network in CAFFE.items():
        names = (*convolutions(configuration), *FULLY_CONNECTED)
        if set(arrays) == {f'{name}.{number}' for name in names for number in (0, 1)}:
            weights = {layer: (arrays[f'{layer}.0'], arrays[f'{layer}.1']) for layer in names}
            name = f'{configuration}_jitter'
            experiment, params = _fit(saved, name, f"the authors' {network}", weights, CAFFE_MEAN)
            params['conv1_1']['kernel'] = importers.swap_red_and_blue(params['conv1_1']['kernel'])
            return name, experiment, params
    raise UsageError(
        f'{saved.path} has the weights of no VGG known here: expected features.0.weight to classifier.6.bias of '
        "torchvision's vgg11, vgg13, vgg16 or vgg19, or the layers conv1_1 to fc8 of the authors' 16 or 19 layers "
        f'(Caffe), found {importers.some(arrays)}.')


def _fit(saved: Saved, name: str, network: str, weights: dict[str, tuple[np.ndarray, np.ndarray]],
         mean: tuple[float, ...]) -> tuple[Experiment, Params]:
    """The experiment of that name, as wide as the weights, and the weights in its layout; of conv1_1 the input channels
    are still as in the file."""
    experiment = EXPERIMENTS[name]
    width = {layer: bias.size for layer, (_, bias) in weights.items()}
    widths = tuple(width[f'conv{block}_1'] for block in range(1, 6))
    experiment = dataclasses.replace(
        experiment, summary=f'{network} ({"-".join(map(str, widths))} maps)',
        model=dataclasses.replace(experiment.model, widths=widths, fc_width=width['fc6'], classes=width['fc8']),
        data=dataclasses.replace(experiment.data, mean=mean))
    kept = 1 - experiment.model.dropout
    wanted = jax.eval_shape(build(experiment).init, jax.random.key(0))
    return experiment, importers.parameters(saved.path, name, wanted, weights, {'fc6': LAST_MAPS},
                                            {'fc7': kept, 'fc8': kept})
