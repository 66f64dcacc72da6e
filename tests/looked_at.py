"""A network to look into that needs no training: a linear layer that names the nearest of the digits' mean images."""
import collections
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

from lib.data.statistics import Statistics
from lib.experiment import Data
from lib.task import Task
from lib.trained import Trained
from lib.visualize.request import Request
from reproductions.lenet5.experiments import EXPERIMENTS

DATA = Data(source='digits', image_size=9, border=1, pixel_scale=255.0)      # 8x8 pixels, a border left and on top
STATISTICS = Statistics(np.full((10, 10, 3), 7, np.float32), np.array([1, 0, 0], np.float32),
                        np.eye(3, dtype=np.float32))


def nearest_mean(scale: float = 0.3) -> dict:
    """Parameters of a linear layer [9 * 9 * 3, 10] and of one unit's worth of places, [3, 3, 3, 2]."""
    digits = load_digits()
    means = np.stack([digits.images[digits.target == k].mean(0) / 16 for k in range(10)])
    kernel = np.zeros((9, 9, 3, 10))
    kernel[1:, 1:] = means.transpose(1, 2, 0)[:, :, None] / 3
    kernel[0] = kernel[:, 0] = np.random.default_rng(1).normal(0, 0.1, 10)       # the border matters, and never changes
    shift = 7 / 255 * kernel.sum((0, 1, 2))      # of the mean that is subtracted
    bias = -np.square(means).sum((1, 2)) / 2 + shift
    places = np.random.default_rng(0).normal(size=(3, 3, 3, 2))
    return {'conv': {'kernel': places.astype(np.float32)},
            'fc': {'kernel': (scale * kernel.reshape(-1, 10)).astype(np.float32),
                   'bias': (scale * bias).astype(np.float32)}}


def activations(params, images):
    maps = jax.lax.conv_general_dilated(images, params['conv']['kernel'], (1, 1), 'VALID',
                                        dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    logits = images.reshape(len(images), -1) @ params['fc']['kernel'] + params['fc']['bias']
    return collections.OrderedDict(conv=maps, fc=logits)


def predict(params, images):
    return jax.nn.softmax(activations(params, images)['fc'])


def network(params: dict | None = None, data: Data = DATA, statistics: Statistics = STATISTICS) -> Trained:
    params = params or nearest_mean()
    experiment = dataclasses.replace(EXPERIMENTS['modern'], data=data)
    task = Task(lambda key: jax.tree.map(jnp.asarray, params), None, predict, activations)
    return Trained('made by hand', experiment, task, params, statistics, 'nearest mean of the digits',
                   tuple('0123456789'), None, None, None)


def request(tmp_path, trained: Trained | None = None, **asked) -> Request:
    return Request(trained or network(), 'conv', cache=tmp_path, **asked)
