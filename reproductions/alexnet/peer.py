"""AlexNet and cuda-convnet's CIFAR-10 networks in PyTorch, written from the paper and the definition files to be
compared with model.py and cifar.py."""
from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F

from lib.experiment import Experiment
from lib.peer import Dropout, sized
from reproductions.alexnet import cifar
from reproductions.alexnet.cifar import CifarModel


class Convolution(nn.Conv2d):
    """torch's, with a border of zeros at the right and bottom where the last window overhangs the image."""

    def forward(self, x):
        def overhang(side, kernel, stride, padding):
            return -(side + 2 * padding - kernel) % stride

        beyond = [overhang(*axis) for axis in zip(x.shape[2:], self.kernel_size, self.stride, self.padding)]
        (top, left), (bottom, right) = self.padding, beyond
        wide = F.pad(x, (left, left + right, top, top + bottom))
        return F.conv2d(wide, self.weight, self.bias, self.stride, groups=self.groups)


class ResponseNorm(nn.Module):
    """torch divides alpha by n. Each of the parts of the maps is normalised alone."""

    def __init__(self, k, alpha, parts):
        super().__init__()
        self.norm, self.parts = nn.LocalResponseNorm(5, 5 * alpha, 0.75, k), parts

    def forward(self, x):
        return torch.cat([self.norm(part) for part in x.chunk(self.parts, 1)], 1)


class MinPool(nn.MaxPool2d):
    def forward(self, x):
        return -super().forward(-x)


class AbsTanh(nn.Tanh):
    def forward(self, x):
        return super().forward(x).abs()


def average_pool(*window, **how):
    return nn.AvgPool2d(*window, **how, count_include_pad=False)


POOLS = {'max': nn.MaxPool2d, 'min': MinPool, 'average': average_pool}
UNITS = {'relu': nn.ReLU, 'tanh': nn.Tanh, 'abs_tanh': AbsTanh}


class Peer(nn.Sequential):
    """The variant of AlexNet that `model` describes, on images [n, 3, s, s]."""

    def __init__(self, model):
        ceil, batch = model.rounding == 'ceil', model.norm == 'batch'
        unit = UNITS[model.activation]
        windows = {1: dict(kernel_size=11, stride=4, padding=model.padding), 2: dict(kernel_size=5, padding=2)}
        steps, maps = OrderedDict(), 3
        for number, width in enumerate([*model.widths, model.conv6], 1):
            stage = []
            if model.without != f'conv{number}' and width:
                make = Convolution if number == 1 and ceil else nn.Conv2d
                groups = 1 if number in (1, 3) else model.groups
                window = windows.get(number, dict(kernel_size=3, padding=1))
                stage.append((f'conv{number}', make(maps, width, groups=groups, bias=not batch, **window)))
                if batch:
                    stage.append((f'conv{number}_norm', nn.BatchNorm2d(width)))
                stage.append((f'unit{number}', unit()))
                maps = width
            if number in (1, 2, 5):
                stage.append((f'pool{number}', POOLS[model.pool](model.pool_size, 2, ceil_mode=ceil)))
            if number <= 2 and model.norm == 'response':
                after = [name for name, _ in stage].index(f'{model.lrn_after[number - 1]}{number}')
                parts = model.groups if model.lrn_own_group else 1
                stage.insert(after + 1, (f'norm{number}', ResponseNorm(model.lrn_k, model.lrn_alpha, parts)))
            steps.update(stage)
        steps['flat'] = nn.Flatten()
        for number in (6, 7):
            steps[f'fc{number}'] = nn.LazyLinear(model.fc_width, bias=not batch)
            if batch:
                steps[f'fc{number}_norm'] = nn.BatchNorm1d(model.fc_width)
            steps[f'fc_unit{number}'] = unit()
            steps[f'dropout{number}'] = Dropout(model.dropout)
        steps['fc8'] = nn.Linear(model.fc_width, model.classes)
        super().__init__(steps)
        self.kind = model.loss

    def outputs(self, x):
        """The output of every layer of the paper by its name: a layer's ends with its unit, and with dropout."""
        names, found = {f'unit{n}': f'conv{n}' for n in range(1, 7)} | {'dropout6': 'fc6', 'dropout7': 'fc7'}, {}
        for step, module in self.named_children():
            x = module(x)
            if step in names:
                found[names[step]] = x
            elif step.startswith(('norm', 'pool')) or step == 'fc8':
                found[step] = x
        return found

    def loss(self, logits, labels):
        """Mean over the images: cross-entropy of the softmax, or the sum of one binary cross-entropy for each class."""
        if self.kind == 'softmax':
            return F.cross_entropy(logits, labels)
        targets = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, targets, reduction='sum') / len(logits)


class LocallyConnected(nn.Module):
    """3x3 windows around every place, each place with weights [outputs, inputs * 9] of its own; weight [places,
    outputs, inputs * 9], bias [outputs, side, side]."""

    def __init__(self, side, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(side * side, outputs, inputs * 9))
        self.bias = nn.Parameter(torch.zeros(outputs, side, side))

    def forward(self, x):
        windows = F.unfold(x, 3, padding=1).permute(2, 0, 1)            # [places, n, inputs * 9]
        sums = torch.bmm(windows, self.weight.transpose(1, 2))          # [places, n, outputs]
        return sums.permute(1, 2, 0).reshape(len(x), *self.bias.shape) + self.bias


class SquareNorm(nn.Module):
    """rnorm: x / (1 + alpha * sum of x^2 over n x n places)^0.75."""

    def __init__(self, n, alpha):
        super().__init__()
        self.n, self.alpha = n, alpha

    def forward(self, x):
        sums = self.n**2 * F.avg_pool2d(x * x, self.n, stride=1, padding=self.n // 2)
        return x / (1 + self.alpha * sums)**0.75


class CifarPeer(nn.Sequential):
    """One of cuda-convnet's networks, on images [n, 3, s, s]."""

    def __init__(self, model, image_size):
        steps, maps, side, counts = OrderedDict(), 3, image_size, {}

        def add(name, module):
            steps[name] = module

        def number(kind, module):
            counts[kind] = counts.get(kind, 0) + 1
            steps[f'{kind}{counts[kind]}'] = module

        for layer in model.layers:
            match layer:
                case cifar.Conv():
                    add(layer.name, nn.Conv2d(maps, layer.maps, layer.size, padding=layer.size // 2,
                                              groups=layer.groups))
                    maps = layer.maps
                case cifar.Local():
                    add(layer.name, LocallyConnected(side, maps, layer.maps))
                    maps = layer.maps
                case cifar.Dense():
                    add(layer.name, nn.Sequential(nn.Flatten(), nn.LazyLinear(layer.units)))
                case cifar.Activation():
                    number(model.activation, UNITS[model.activation]())
                case cifar.Pool():
                    number('pool', POOLS[layer.kind](layer.size, 2, ceil_mode=True))
                    side = side // 2
                case cifar.GlobalAverage():
                    add('global_average', nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
                case cifar.Dropout():
                    number('dropout', Dropout(layer.rate))
                case cifar.CrossMapNorm():
                    number('norm', nn.LocalResponseNorm(layer.n, layer.n * layer.alpha, 0.75, 1.0))
                case cifar.SameMapNorm():
                    number('norm', SquareNorm(layer.n, layer.alpha))
        super().__init__(steps)

    def outputs(self, x):
        found = {}
        for step, module in self.named_children():
            x = module(x)
            if not step.startswith('dropout'):
                found[step] = x
        return found

    def loss(self, logits, labels):
        return F.cross_entropy(logits, labels)


def make(experiment: Experiment) -> Peer | CifarPeer:
    """The network of an experiment with torch's initial weights, float32: images [n, 3, s, s] to logits, in training
    with new dropout masks at every call, and `loss(logits, labels)`."""
    model, size = experiment.model, experiment.data.image_size
    return sized(CifarPeer(model, size) if isinstance(model, CifarModel) else Peer(model), size)
