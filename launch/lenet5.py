"""Trains and evaluates LeNet-5 (LeCun et al. 1998) and its ablations: python -m launch.lenet5 --list"""
from launch.paper import main
from lib.paper import Paper
from reproductions.lenet5.experiments import EXPERIMENTS
from reproductions.lenet5.model import build
from reproductions.lenet5.paper import COUNTS, SEEN, TABLES
from reproductions.lenet5.weights import convert

PAPER = Paper('lenet5', EXPERIMENTS, build, TABLES, first_layer='C1', convert=convert, seen=SEEN,
              counts=COUNTS)

if __name__ == '__main__':
    main(PAPER)
