"""GoogLeNet in PyTorch, written from the paper to be compared with model.py."""
import torch
from torch import nn
from torch.nn import functional as F

from lib.experiment import Experiment
from lib.peer import Dropout, sized


def pair(*parts):
    return nn.ModuleList(parts)


class Module(nn.Module):
    """Figure 2(b), or 2(a) without `reductions`."""

    def __init__(self, inputs, one, reduce_three, three, reduce_five, five, pool_proj, reductions):
        super().__init__()
        self.reductions, pool = reductions, nn.MaxPool2d(3, 1, padding=1)
        self.branch1 = nn.Conv2d(inputs, one, 1)
        if reductions:
            self.branch2 = pair(nn.Conv2d(inputs, reduce_three, 1), nn.Conv2d(reduce_three, three, 3, padding=1))
            self.branch3 = pair(nn.Conv2d(inputs, reduce_five, 1), nn.Conv2d(reduce_five, five, 5, padding=2))
            self.branch4 = pair(pool, nn.Conv2d(inputs, pool_proj, 1))
        else:
            self.branch2 = pair(nn.Identity(), nn.Conv2d(inputs, three, 3, padding=1))
            self.branch3 = pair(nn.Identity(), nn.Conv2d(inputs, five, 5, padding=2))
            self.branch4 = pair(pool, nn.Identity())

    def forward(self, x, see, name):
        own = {'1x1': F.relu(self.branch1(x))}
        three = five = x
        if self.reductions:
            own['3x3_reduce'] = three = F.relu(self.branch2[0](x))
        own['3x3'] = F.relu(self.branch2[1](three))
        if self.reductions:
            own['5x5_reduce'] = five = F.relu(self.branch3[0](x))
        own['5x5'] = F.relu(self.branch3[1](five))
        own['pool'] = last = self.branch4[0](x)
        if self.reductions:
            own['pool_proj'] = last = F.relu(self.branch4[1](last))
        see |= {f'{name}_{branch}': maps for branch, maps in own.items()}
        see[name] = torch.cat([own['1x1'], own['3x3'], own['5x5'], last], 1)
        return see[name]


class Auxiliary(nn.Module):
    def __init__(self, inputs, maps, units, classes, rate):
        super().__init__()
        self.conv = nn.Conv2d(inputs, maps, 1)
        self.fc1, self.fc2, self.dropout = nn.LazyLinear(units), nn.Linear(units, classes), Dropout(rate)

    def forward(self, x):
        x = F.relu(self.conv(F.avg_pool2d(x, 5, 3))).flatten(1)
        return self.fc2(self.dropout(F.relu(self.fc1(x))))


class Peer(nn.Module):
    """The variant of the network that `model` describes, on images [n, 3, s, s]."""

    def __init__(self, model):
        super().__init__()
        self.model, (first, reduced, maps) = model, model.stem
        self.conv1 = nn.Conv2d(3, first, 7, stride=2, padding=3)
        self.conv2, self.conv3 = nn.Conv2d(first, reduced, 1), nn.Conv2d(reduced, maps, 3, padding=1)
        for name, row in model.inception:
            module = Module(maps, *row, model.reductions)
            maps = row[0] + row[2] + row[4] + (row[5] if model.reductions else maps)
            setattr(self, f'inception{name}', module)
            if name in model.heads:
                setattr(self, f'aux{1 + model.heads.index(name)}',
                        Auxiliary(maps, model.heads_maps, model.fc_width, model.classes, model.heads_dropout))
        if model.last == 'fully_connected':
            self.fc_before, maps = nn.LazyLinear(model.fc_width), model.fc_width
        self.dropout, self.fc = Dropout(model.dropout), nn.Linear(maps, model.classes)

    def outputs(self, x):
        """(The logits of the auxiliary classifiers, in training; the outputs of all layers)."""
        model, see, others = self.model, {}, []

        def pool(x):
            return F.max_pool2d(x, 3, 2, ceil_mode=True)

        def norm(name, x):
            if model.norm == 'response':       # torch divides alpha by the window
                see[name] = x = F.local_response_norm(x, 5, 5 * model.lrn_alpha, 0.75, model.lrn_k)
            return x

        see['conv1'] = F.relu(self.conv1(x))
        see['pool1'] = pool(see['conv1'])
        see['conv2_reduce'] = F.relu(self.conv2(norm('norm1', see['pool1'])))
        see['conv2'] = F.relu(self.conv3(see['conv2_reduce']))
        see['pool2'] = x = pool(norm('norm2', see['conv2']))
        for name, _ in model.inception:
            x = getattr(self, f'inception{name}')(x, see, f'inception_{name}')
            if self.training and name in model.heads:
                others.append(getattr(self, f'aux{1 + model.heads.index(name)}')(x))
            if name in ('3b', '4e'):
                see[{'3b': 'pool3', '4e': 'pool4'}[name]] = x = pool(x)
        if model.last == 'average':
            see['pool5'] = F.adaptive_avg_pool2d(x, 1)
            x = see['pool5'].flatten(1)
        else:
            see['fc'] = x = F.relu(self.fc_before(x.flatten(1)))
        see['linear'] = self.fc(self.dropout(x))
        return others, see

    def forward(self, x):
        """Logits; in training, a list of the network's own and those of the auxiliary classifiers."""
        others, see = self.outputs(x)
        return [see['linear'], *others] if self.training else see['linear']

    def loss(self, logits, labels):
        """Of the list that is returned in training."""
        own, *others = (F.cross_entropy(each, labels) for each in logits)
        return own + 0.3 * sum(others)


def make(experiment: Experiment) -> Peer:
    """The network of an experiment with torch's initial weights, float32: images [n, 3, s, s] to logits, in training a
    list of them with new dropout masks at every call, and `loss(logits, labels)`."""
    return sized(Peer(experiment.model), experiment.data.image_size)
