"""VGG in PyTorch, written from the paper to be compared with model.py."""
from collections import OrderedDict

from torch import nn
from torch.nn import functional as F

from lib.experiment import Experiment
from lib.peer import Dropout, sized

# The places of torchvision's features: a letter for a convolution of that window with its unit, c3 or c1 or c5, M for
# pooling, L for the response normalisation that torchvision does not have.
PLANS = {
    'A': 'c3 M c3 M c3 c3 M c3 c3 M c3 c3 M',
    'A_LRN': 'c3 L M c3 M c3 c3 M c3 c3 M c3 c3 M',
    'B_5x5': 'c5 M c5 M c5 M c5 M c5 M',
    'C': 'c3 c3 M c3 c3 M c3 c3 c1 M c3 c3 c1 M c3 c3 c1 M',
    'E': 'c3 c3 M c3 c3 M c3 c3 c3 c3 M c3 c3 c3 c3 M c3 c3 c3 c3 M',
}


class Peer(nn.Module):
    """Modules in torchvision's places: features.0, classifier.0, classifier.3, classifier.6. `names` has the paper's
    for the outputs of those that end a layer. Images [n, 3, s, s]."""

    def __init__(self, plan, widths, units, classes, rate):
        super().__init__()
        steps, maps, block, number, self.names, self.weights = [], 3, 1, 1, OrderedDict(), OrderedDict()
        for step in plan.split():
            if step == 'M':
                steps.append(nn.MaxPool2d(2, 2))
                self.names[f'features.{len(steps) - 1}'] = f'pool{block}'
                block, number = block + 1, 1
            elif step == 'L':           # torch divides alpha by the window
                steps.append(nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2.0))
                self.names[f'features.{len(steps) - 1}'] = 'norm1'
            else:
                window, width = int(step[1:]), widths[block - 1]
                self.weights[f'conv{block}_{number}'] = f'features.{len(steps)}'
                steps += [nn.Conv2d(maps, width, window, padding=window // 2), nn.ReLU()]
                self.names[f'features.{len(steps) - 1}'] = f'conv{block}_{number}'
                maps, number = width, number + 1
        self.features = nn.Sequential(*steps)
        self.classifier = nn.Sequential(
            nn.LazyLinear(units), nn.ReLU(), Dropout(rate), nn.Linear(units, units), nn.ReLU(),
            Dropout(rate), nn.Linear(units, classes))
        self.weights |= {'fc6': 'classifier.0', 'fc7': 'classifier.3', 'fc8': 'classifier.6'}
        self.names |= {'classifier.2': 'fc6', 'classifier.5': 'fc7', 'classifier.6': 'fc8'}

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))

    def outputs(self, x):
        found = {}
        for part in ('features', 'classifier'):
            for place, module in getattr(self, part).named_children():
                x = module(x)
                if name := self.names.get(f'{part}.{place}'):
                    found[name] = x
            x = x.flatten(1)
        return found

    def dense(self, x):
        """The fully connected layers as convolutions, their scores averaged over all places."""
        kept = 1 - self.classifier[2].rate
        fc6, fc7, fc8 = (self.classifier[place] for place in (0, 3, 6))
        x = self.features(x)
        side = round((fc6.in_features / x.shape[1])**0.5)
        x = F.conv2d(x, fc6.weight.reshape(len(fc6.weight), -1, side, side), fc6.bias).relu() * kept
        x = F.conv2d(x, fc7.weight[:, :, None, None], fc7.bias).relu() * kept
        x = F.conv2d(x, fc8.weight[:, :, None, None], fc8.bias)
        return x.sum((2, 3)) / (x.shape[2] * x.shape[3])

    def loss(self, logits, labels):
        return F.cross_entropy(logits, labels)


def make(experiment: Experiment) -> Peer:
    """The network of an experiment, one of PLANS, with torch's initial weights, float32: images [n, 3, s, s] to logits,
    in training with new dropout masks at every call, and `loss(logits, labels)`."""
    model = experiment.model
    plan = PLANS[model.configuration + '_LRN' * (model.norm == 'response')]
    peer = Peer(plan, model.widths, model.fc_width, model.classes, model.dropout)
    return sized(peer, experiment.data.image_size)
