"""Trains and evaluates GoogLeNet (Szegedy et al. 2014) and its ablations: python -m launch.googlenet --list"""
from launch.paper import main
from lib.paper import Paper
from reproductions.googlenet.experiments import EXPERIMENTS
from reproductions.googlenet.model import build
from reproductions.googlenet.paper import COUNTS, SEEN, TABLES
from reproductions.googlenet.weights import convert

PAPER = Paper('googlenet', EXPERIMENTS, build, TABLES, first_layer='conv1', convert=convert, seen=SEEN,
              counts=COUNTS)

if __name__ == '__main__':
    main(PAPER)
