"""Network in Network in PyTorch, written from the paper and its author's definition files to be compared with
model.py."""
from collections import OrderedDict

from torch import nn
from torch.nn import functional as F

from lib import peer
from lib.experiment import Experiment
from reproductions.nin.model import Dense, Dropout, GlobalAverage, MLPConv, Pool


class Peer(nn.Sequential):
    """The network of a model, on images [n, channels, s, s]."""

    def __init__(self, model):
        steps, maps, counts = OrderedDict(), model.channels, dict.fromkeys(('conv', 'cccp', 'pool', 'dropout', 'fc'), 0)

        def add(kind, module, relu=False):
            counts[kind] += 1
            steps[f'{kind}{counts[kind]}'] = nn.Sequential(OrderedDict(it=module, relu=nn.ReLU())) if relu else module

        for layer in model.layers:
            if isinstance(layer, MLPConv):
                add('conv', nn.Conv2d(maps, layer.maps, layer.size, layer.stride, layer.padding), True)
                maps = layer.maps
                for place, width in enumerate(layer.widths, 1):
                    add('cccp', nn.Conv2d(maps, width, 1), layer.last_unit or place < len(layer.widths))
                    maps = width
            elif isinstance(layer, Pool):
                ceil = model.rounding == 'ceil'
                add('pool', nn.MaxPool2d(3, 2, ceil_mode=ceil) if layer.kind == 'max' else
                    nn.AvgPool2d(3, 2, ceil_mode=ceil, count_include_pad=False))
            elif isinstance(layer, Dropout):
                add('dropout', peer.Dropout(model.dropout))
            elif isinstance(layer, GlobalAverage):
                steps['poolg'] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
            elif isinstance(layer, Dense):
                add('fc', nn.Sequential(nn.Flatten(), nn.LazyLinear(layer.units)), layer.unit)
        super().__init__(steps)

    def outputs(self, x):
        """The output of every layer of ours by its name, and what goes into each dropout."""
        found, inputs = {}, {}
        for step, module in self.named_children():
            if isinstance(module, peer.Dropout):
                inputs[step] = x
            x = module(x)
            if not isinstance(module, peer.Dropout):
                found[step] = x
        return found, inputs

    def loss(self, logits, labels):
        return F.cross_entropy(logits, labels)


def make(experiment: Experiment) -> Peer:
    """The network of an experiment with torch's initial weights, float32: images [n, channels, s, s] to logits, in
    training with new dropout masks at every call, and `loss(logits, labels)`."""
    model = experiment.model
    return peer.sized(Peer(model), experiment.data.image_size, model.channels)
