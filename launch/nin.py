"""Trains and evaluates Network in Network (Lin et al. 2013) and its ablations: python -m launch.nin --list"""
from launch.paper import main
from lib.paper import Paper
from reproductions.nin.experiments import EXPERIMENTS
from reproductions.nin.model import build
from reproductions.nin.paper import COUNTS, SEEN, TABLES
from reproductions.nin.weights import convert

PAPER = Paper('nin', EXPERIMENTS, build, TABLES, first_layer='conv1', convert=convert, seen=SEEN,
              counts=COUNTS)

if __name__ == '__main__':
    main(PAPER)
