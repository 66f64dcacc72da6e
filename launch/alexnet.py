"""Trains and evaluates AlexNet (Krizhevsky et al. 2012) and its ablations: python -m launch.alexnet --list"""
from launch.paper import main
from lib.paper import Paper
from reproductions.alexnet.experiments import EXPERIMENTS
from reproductions.alexnet.model import Model, build
from reproductions.alexnet.paper import COUNTS, LESSONS, SEEN, TABLES
from reproductions.alexnet.scaling import SCHEMES
from reproductions.alexnet.weights import convert

PAPER = Paper('alexnet', EXPERIMENTS, build, TABLES, first_layer='conv1', convert=convert, seen=SEEN,
              counts=COUNTS,
              lessons={name: LESSONS for name, experiment in EXPERIMENTS.items()
                       if isinstance(getattr(experiment, 'model', None), Model)}, scaling=SCHEMES)

if __name__ == '__main__':
    main(PAPER)
