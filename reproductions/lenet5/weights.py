"""LeNet's public weights in our form: lenet_iter_10000.caffemodel, as Caffe's MNIST example writes it."""
import dataclasses

import jax

from lib import importers
from lib.experiment import Experiment, UsageError
from lib.importers import Saved
from lib.task import Params
from reproductions.lenet5.experiments import EXPERIMENTS
from reproductions.lenet5.model import build

CAFFE_NAMES = {'C1': 'conv1', 'C3': 'conv2', 'F5': 'ip1', 'F6': 'ip2'}
LAST_MAPS = (4, 4)                      # pixels of what F5 reads


def convert(saved: Saved) -> tuple[str, Experiment, Params]:
    """The name of the experiment that describes a file's network, it, and the weights as its parameters, float32.

    Raises:
      UsageError: if the weights are not of Caffe's LeNet.
    """
    expected = {f'{name}.{number}' for name in CAFFE_NAMES.values() for number in (0, 1)}
    if set(saved.arrays) != expected:
        raise UsageError(f"{saved.path} has the weights of no LeNet known here: expected the layers conv1, conv2, ip1 "
                         f"and ip2 of Caffe's, with weights and biases, found {importers.some(saved.arrays)}.")
    weights = {layer: (saved.arrays[f'{name}.0'], saved.arrays[f'{name}.1']) for layer, name in CAFFE_NAMES.items()}
    first, second, units, classes = (bias.size for _, bias in weights.values())
    experiment = EXPERIMENTS['caffe']
    experiment = dataclasses.replace(
        experiment, summary=f"Caffe's LeNet ({first}-{second}-{units}-{classes})",
        model=dataclasses.replace(experiment.model, widths=(first, second, units), classes=classes))
    wanted = jax.eval_shape(build(experiment).init, jax.random.key(0))
    params = importers.parameters(saved.path, "Caffe's LeNet", wanted, weights, {'F5': LAST_MAPS}, {})
    return 'caffe', experiment, params
