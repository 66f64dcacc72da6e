"""LeNet's public weights in our form: lenet_iter_10000.caffemodel, as Caffe's MNIST example writes it."""
import dataclasses

import numpy as np

from lib import importers
from lib.experiment import Experiment, UsageError, require
from lib.importers import Saved
from lib.task import Params
from reproductions.lenet5.experiments import EXPERIMENTS

CAFFE_NAMES = {'C1': 'conv1', 'C3': 'conv2', 'F5': 'ip1', 'F6': 'ip2'}
LAST_MAPS = (4, 4)                      # pixels of what F5 reads


def convert(saved: Saved) -> tuple[str, Experiment, Params]:
    """The name of the experiment that describes a file's network, it, and the weights as its parameters, float32.

    Raises:
      UsageError: if the weights are not of Caffe's LeNet.
    """
    expected = {f'{name}.{number}' for name in CAFFE_NAMES.values() for number in (0, 1)}
    if set(saved.arrays) != expected:
        found = ', '.join(sorted(saved.arrays)[:6]) + ' and so on' * (len(saved.arrays) > 6)
        raise UsageError(f"{saved.path} has the weights of no LeNet known here: expected the layers conv1, conv2, ip1 "
                         f"and ip2 of Caffe's, with weights and biases, found {found or 'none'}.")
    weights = {layer: (saved.arrays[f'{name}.0'], saved.arrays[f'{name}.1']) for layer, name in CAFFE_NAMES.items()}
    first, second, units, classes = (bias.size for _, bias in weights.values())
    shapes = {'C1': (first, 1, 5, 5), 'C3': (second, first, 5, 5), 'F5': (units, 16 * second), 'F6': (classes, units)}
    for layer, (weight, bias) in weights.items():
        require(weight.shape == shapes[layer] and bias.ndim == 1,
                f"{saved.path} does not fit Caffe's LeNet: the weights of {CAFFE_NAMES[layer]} have the shape "
                f'{weight.shape}, expected {shapes[layer]}.')
    experiment = EXPERIMENTS['caffe']
    experiment = dataclasses.replace(
        experiment, summary=f"Caffe's LeNet ({first}-{second}-{units}-{classes})",
        model=dataclasses.replace(experiment.model, widths=(first, second, units), classes=classes))
    kernels = {layer: importers.convolution_kernel(weight) if weight.ndim == 4 else
               importers.linear_kernel(weight, LAST_MAPS if layer == 'F5' else (1, 1))
               for layer, (weight, _) in weights.items()}
    return 'caffe', experiment, {layer: {'kernel': np.ascontiguousarray(kernels[layer]), 'bias': np.array(bias)}
                                 for layer, (_, bias) in weights.items()}
