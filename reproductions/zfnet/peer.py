"""ZFNet and the network it grew out of in PyTorch, written from the paper to be compared with model.py."""
from torch import nn
from torch.nn import functional as F

from lib.experiment import Experiment
from lib.peer import Dropout, sized
from reproductions.zfnet.model import Conv, Dense


def pool(x):
    return F.max_pool2d(x, 3, 2, ceil_mode=True)


def normalise(x):
    """Krizhevsky's constants; torch divides alpha by the window."""
    return F.local_response_norm(x, 5, alpha=5e-4, beta=0.75, k=2.0)


class Peer(nn.Module):
    """What the networks share: from layer 3 on. Images [n, 3, s, s]."""

    def __init__(self, first, second, widths, classes):
        super().__init__()
        w1, w2, w3, w4, w5, w6, w7 = widths
        self.conv1, self.conv2 = nn.Conv2d(3, w1, **first), nn.Conv2d(w1, w2, **second)
        self.conv3 = nn.Conv2d(w2, w3, 3, padding=1)
        self.conv4, self.conv5 = nn.Conv2d(w3, w4, 3, padding=1), nn.Conv2d(w4, w5, 3, padding=1)
        self.fc6, self.fc7, self.fc8 = nn.LazyLinear(w6), nn.Linear(w6, w7), nn.Linear(w7, classes)
        self.dropout = nn.ModuleDict(dict(fc6=Dropout(0.5), fc7=Dropout(0.5)))

    def begin(self, x):
        """The outputs of layers 1 and 2."""
        raise NotImplementedError

    def outputs(self, x):
        found = self.begin(x)
        x = list(found.values())[-1]
        for name in ('conv3', 'conv4', 'conv5'):
            found[name] = x = F.relu(getattr(self, name)(x))
        found['pool5'] = x = pool(x)
        x = x.flatten(1)
        for name in ('fc6', 'fc7'):
            found[name] = x = self.dropout[name](F.relu(getattr(self, name)(x)))
        found['fc8'] = self.fc8(x)
        return found

    def forward(self, x):
        return self.outputs(x)['fc8']

    def loss(self, logits, labels):
        return F.cross_entropy(logits, labels)


class Figure3(Peer):
    """Section 3: ReLU, pooling, normalisation. Of the border only the pixel that the last window lacks is added."""

    def __init__(self, widths, classes):
        super().__init__(dict(kernel_size=7, stride=2), dict(kernel_size=5, stride=2), widths, classes)

    def begin(self, x):
        odd = (x.shape[2] - 7) % 2
        conv1 = F.relu(self.conv1(F.pad(x, (0, odd, 0, odd))))
        pool1 = pool(conv1)
        norm1 = normalise(pool1)
        odd = (norm1.shape[2] - 5) % 2
        conv2 = F.relu(self.conv2(F.pad(norm1, (0, odd, 0, odd))))
        pool2 = pool(conv2)
        return dict(conv1=conv1, pool1=pool1, norm1=norm1, conv2=conv2, pool2=pool2, norm2=normalise(pool2))


class Krizhevsky(Peer):
    """ReLU, normalisation, pooling; 224 pixels lack 3 for the last window."""

    def __init__(self, widths, classes):
        super().__init__(dict(kernel_size=11, stride=4), dict(kernel_size=5, padding=2), widths, classes)

    def begin(self, x):
        lacking = -(x.shape[2] - 11) % 4
        conv1 = F.relu(self.conv1(F.pad(x, (0, lacking, 0, lacking))))
        norm1 = normalise(conv1)
        pool1 = pool(norm1)
        conv2 = F.relu(self.conv2(pool1))
        norm2 = normalise(conv2)
        return dict(conv1=conv1, norm1=norm1, pool1=pool1, conv2=conv2, norm2=norm2, pool2=pool(norm2))


def make(experiment: Experiment) -> Peer:
    """The network of 'paper' or 'krizhevsky', of any widths, with torch's initial weights, float32: images [n, 3, s, s]
    to logits, in training with new dropout masks at every call, and `loss(logits, labels)`."""
    weighted = [layer for layer in experiment.model.layers if isinstance(layer, (Conv, Dense))]
    kind = Figure3 if weighted[0].size == 7 else Krizhevsky
    return sized(kind([layer.width for layer in weighted], experiment.model.classes), experiment.data.image_size)
