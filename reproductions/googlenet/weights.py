"""GoogLeNet's public weights in our form: Caffe's bvlc_googlenet (BVLC)."""
import dataclasses

import jax
import numpy as np

from lib import importers
from lib.experiment import Experiment, UsageError, require
from lib.importers import Saved
from lib.task import Params
from reproductions.googlenet.experiments import EXPERIMENTS
from reproductions.googlenet.model import INCEPTION, Inception, build

STEM = {'conv1': 'conv1/7x7_s2', 'conv2_reduce': 'conv2/3x3_reduce', 'conv2': 'conv2/3x3'}
BRANCHES = ('1x1', '3x3_reduce', '3x3', '5x5_reduce', '5x5', 'pool_proj')      # in the order of Inception's fields
MODULES = {f'inception_{name}_{branch}': f'inception_{name}/{branch}' for name in INCEPTION for branch in BRANCHES}
LINEAR = {'linear': 'loss3/classifier'}
HEADS = {f'aux_{name}_{ours}': f'loss{number}/{theirs}' for number, name in ((1, '4a'), (2, '4d'))
         for ours, theirs in (('conv', 'conv'), ('fc', 'fc'), ('linear', 'classifier'))}
NORM = (5, 1e-4, 0.75, 1.0)     # n, alpha, beta, k
HEAD_MAPS = (4, 4)              # pixels of what the fully connected layer of an auxiliary classifier reads


def convert(saved: Saved) -> tuple[str, Experiment, Params]:
    """The name of the experiment that describes a file's network, 'caffe', it, and the weights as its parameters,
    float32.

    The experiment has the widths and classes of the weights, and auxiliary classifiers if they are in the file, as they
    are in a snapshot of the training. The outputs for an image are those of the original: conv1 takes over the order of
    the channels; the layers after dropout are divided by the fraction kept, because the outputs before them are
    multiplied by it at test time here and divided by it in training there.

    Raises:
      UsageError: if the weights are of another network.
    """
    names = {name.removesuffix('.0') for name in saved.arrays if name.endswith('.0')}
    _require_not_torchvisions(saved)
    ours = STEM | MODULES | LINEAR | (HEADS if set(HEADS.values()) <= names else {})
    expected = {f'{name}.{number}' for name in ours.values() for number in (0, 1)}
    if set(saved.arrays) != expected:
        missing, other = sorted(expected - set(saved.arrays)), sorted(set(saved.arrays) - expected)
        raise UsageError(f'{saved.path} has the weights of no GoogLeNet known here, which are those of Caffe, '
                         'conv1/7x7_s2 to loss3/classifier with weights and biases: '
                         f'{_some("missing", missing)}{"; " * bool(missing and other)}{_some("unknown", other)}.')
    for norm in (layer.response_norm for layer in saved.layers if layer.response_norm):
        require(norm.across and np.allclose(norm[:4], NORM),
                f"{saved.path} has {norm}, not the LRN of Caffe's network: n=5, alpha=0.0001, beta=0.75, k=1.")
    weights = {layer: (saved.arrays[f'{name}.0'], saved.arrays[f'{name}.1']) for layer, name in ours.items()}
    experiment = _experiment(weights)
    return 'caffe', experiment, _params(saved, experiment, weights)


def _require_not_torchvisions(saved: Saved) -> None:
    require('conv1.bn.weight' not in saved.arrays,
            f"{saved.path} has torchvision's GoogLeNet, which is another network, with batch normalisation and 3x3 "
            "convolutions where the paper has 5x5: use Caffe's bvlc_googlenet.caffemodel.")


def _some(word: str, names: list[str]) -> str:
    return f'{word} {", ".join(names[:4])}' + ' and so on' * (len(names) > 4) if names else ''


def _experiment(weights: dict[str, tuple[np.ndarray, np.ndarray]]) -> Experiment:
    """The experiment 'caffe' as wide as the weights."""
    width = {layer: bias.size for layer, (_, bias) in weights.items()}
    heads = tuple(name for name in ('4a', '4d') if f'aux_{name}_fc' in width)
    own = {'heads_maps': width['aux_4a_conv'], 'fc_width': width['aux_4a_fc']} if heads else {}
    model = dataclasses.replace(
        EXPERIMENTS['caffe'].model, classes=width['linear'], heads=heads, stem=tuple(width[layer] for layer in STEM),
        inception=tuple((name, Inception(*(width[f'inception_{name}_{branch}'] for branch in BRANCHES)))
                        for name in INCEPTION),
        **own)
    summary = f"Caffe's GoogLeNet ({'with' if heads else 'without'} the auxiliary classifiers)"
    return dataclasses.replace(EXPERIMENTS['caffe'], summary=summary, model=model)


def _params(saved: Saved, experiment: Experiment, weights: dict[str, tuple[np.ndarray, np.ndarray]]) -> Params:
    model = experiment.model
    kept = {'linear': 1 - model.dropout} | {f'aux_{name}_linear': 1 - model.heads_dropout for name in model.heads}
    wanted = jax.eval_shape(build(experiment).init, jax.random.key(0))
    params = importers.parameters(saved.path, 'caffe', wanted, weights,
                                  {f'aux_{name}_fc': HEAD_MAPS for name in model.heads}, kept)
    params['conv1']['kernel'] = importers.swap_red_and_blue(params['conv1']['kernel'])
    return params
