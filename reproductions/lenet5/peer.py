"""LeNet-5, its modern form and Caffe's LeNet in PyTorch, written from the paper to be compared with model.py and
caffe.py."""
import torch
from torch import nn
from torch.nn import functional as F

from lib.experiment import Experiment
from reproductions.lenet5.caffe import CaffeModel
from reproductions.lenet5.model import TABLE_I
from reproductions.lenet5.prototypes import PROTOTYPES


def squash(x):
    return 1.7159 * torch.tanh(x * 2 / 3)


class Subsample(nn.Module):
    """Four times the average of a window is its sum."""

    def __init__(self, maps):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(maps)), nn.Parameter(torch.zeros(maps))

    def forward(self, x):
        return 4 * F.avg_pool2d(x, 2) * self.weight[:, None, None] + self.bias[:, None, None]


class Peer(nn.Module):
    """Images [n, 1, 32, 32]; C3 is dense, and its mask says which connections there are."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.C1, self.C3, self.C5 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5), nn.Conv2d(16, 120, 5)
        if model.subsampling == 'trainable':
            self.S2, self.S4 = Subsample(6), Subsample(16)
        self.F6 = nn.Linear(120, 84)
        if model.output == 'linear':
            self.output = nn.Linear(84, 10)
        mask = torch.ones(16, 6, 1, 1)
        if model.connections == 'table':
            mask = torch.tensor([[[[float(s in sources)]] for s in range(6)] for sources in TABLE_I])
        self.register_buffer('mask', mask, persistent=False)
        self.register_buffer('drawings', torch.tensor(PROTOTYPES[:10], dtype=torch.float32), persistent=False)

    def outputs(self, x):
        found = {'C1': squash(self.C1(x))}
        pool = {name: getattr(self, name, None) for name in ('S2', 'S4')}

        def subsample(name, x):
            return squash(pool[name](x)) if pool[name] is not None else F.max_pool2d(x, 2)

        found['S2'] = subsample('S2', found['C1'])
        found['C3'] = squash(F.conv2d(found['S2'], self.C3.weight * self.mask, self.C3.bias))
        found['S4'] = subsample('S4', found['C3'])
        found['C5'] = squash(self.C5(found['S4']))
        found['F6'] = squash(self.F6(found['C5'].flatten(1)))
        if self.model.output == 'linear':
            found['output'] = self.output(found['F6'])
        else:
            found['output'] = -self.model.penalty * torch.cdist(found['F6'], self.drawings)**2
        return found

    def forward(self, x):
        return self.outputs(x)['output']

    def loss(self, logits, labels):
        if self.model.output == 'linear':
            return F.cross_entropy(logits, labels)
        rubbish = logits.new_full((len(logits), 1), -self.model.rubbish)
        return F.cross_entropy(torch.cat([logits, rubbish], 1), labels)     # j is the penalty of an eleventh class


class CaffePeer(nn.Module):
    """Images [n, 1, 28, 28]."""

    def __init__(self, model):
        super().__init__()
        first, second, units = model.widths
        self.C1, self.C3 = nn.Conv2d(1, first, 5), nn.Conv2d(first, second, 5)
        self.F5, self.F6 = nn.Linear(16 * second, units), nn.Linear(units, 10)

    def outputs(self, x):
        found = {'C1': self.C1(x)}
        found['S2'] = F.max_pool2d(found['C1'], 2)
        found['C3'] = self.C3(found['S2'])
        found['S4'] = F.max_pool2d(found['C3'], 2)
        found['F5'] = F.relu(self.F5(found['S4'].flatten(1)))
        found['F6'] = self.F6(found['F5'])
        return found

    def forward(self, x):
        return self.outputs(x)['F6']

    def loss(self, logits, labels):
        return F.cross_entropy(logits, labels)


def make(experiment: Experiment) -> Peer | CaffePeer:
    """The network of an experiment of ten classes with torch's initial weights, float32: images [n, 1, s, s] to logits,
    and `loss(logits, labels)`."""
    model = experiment.model
    return CaffePeer(model) if isinstance(model, CaffeModel) else Peer(model)
