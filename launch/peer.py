"""PyTorch's side of launch.benchmark. It runs in a process of its own that sleeps while XLA works, since the threads of
either wait for more work by spinning, and would take the other's time."""
import importlib.metadata
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import nn

from lib import cpu
from lib.benchmark import timed
from lib.experiment import Experiment
from reproductions.alexnet import peer as alexnet
from reproductions.googlenet import peer as googlenet
from reproductions.lenet5 import peer as lenet5
from reproductions.nin import peer as nin
from reproductions.vgg import peer as vgg
from reproductions.zfnet import peer as zfnet

MAKE = {'alexnet': alexnet.make, 'googlenet': googlenet.make, 'lenet5': lenet5.make, 'nin': nin.make, 'vgg': vgg.make,
        'zfnet': zfnet.make}


class Subject:
    """A network on one batch of random images: eager, float32, channels last."""

    def __init__(self, paper: str, experiment: Experiment, device: str):
        torch.manual_seed(0)
        network = MAKE[paper](experiment)
        for weight in network.parameters():
            if weight.ndim > 1:
                nn.init.kaiming_normal_(weight, nonlinearity='relu')
        first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
        side = experiment.data.image_size
        images = torch.randn(experiment.batch_size, first.in_channels, side, side)
        classes = network.eval()(images[:1]).shape[1]
        self.device = device
        self.network = network.to(device, memory_format=torch.channels_last)
        self.images = images.to(device, memory_format=torch.channels_last)
        self.labels = torch.randint(classes, (experiment.batch_size,), device=device)

    def gradient(self) -> None:
        """Forward and backward pass in training, with dropout: the gradient of all parameters."""
        self.network.train().zero_grad()
        self.network.loss(self.network(self.images), self.labels).backward()
        self._wait()

    def predict(self) -> None:
        """The logits, without dropout."""
        with torch.no_grad():
            self.network.eval()(self.images)
        self._wait()

    def _wait(self):
        if self.device == 'cuda':
            torch.cuda.synchronize()


def serve(connection: Connection, threads: int, device: str) -> None:
    """Says first what computes, on `device`, 'cuda' or 'cpu', if it is there. Then answers (paper, experiment, method)
    with None, once that is ready to be timed, and None with the seconds of a turn of it; until the other end is
    closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # the other end hears of it
    device = device if torch.cuda.is_available() else 'cpu'
    torch.set_num_threads(threads)
    cpu.keep_memory()                                   # as ours does
    torch.backends.cuda.matmul.allow_tf32 = True        # as in XLA
    turn: Callable[[], float] | None = None
    connection.send({'version': importlib.metadata.version('torch'), 'device': device,
                     'threads': torch.get_num_threads()})
    while True:
        try:
            request: Any = connection.recv()
        except EOFError:
            return
        if request is None:
            connection.send(turn())
        else:
            paper, experiment, method = request
            turn = None         # so that two networks are never held at once
            turn = timed(getattr(Subject(paper, experiment, device), method))
            connection.send(None)
