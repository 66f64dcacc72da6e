"""Every paper in this repository by its name, for the commands that work with any of them."""
from launch import alexnet, googlenet, nin, vgg

PAPERS = {'alexnet': alexnet.PAPER, 'googlenet': googlenet.PAPER, 'nin': nin.PAPER, 'vgg': vgg.PAPER}
