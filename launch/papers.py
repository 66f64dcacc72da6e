"""Every paper in this repository by its name, for the commands that work with any of them."""
from launch import alexnet, googlenet, lenet5, nin, vgg, zfnet

PAPERS = {
    'lenet5': lenet5.PAPER,
    'alexnet': alexnet.PAPER,
    'zfnet': zfnet.PAPER,
    'nin': nin.PAPER,
    'vgg': vgg.PAPER,
    'googlenet': googlenet.PAPER,
}
