"""Trains and evaluates AlexNet (Krizhevsky et al. 2012) and its ablations: python -m launch.alexnet --list"""
from launch import cli
from reproductions.alexnet.experiments import EXPERIMENTS
from reproductions.alexnet.model import build
from reproductions.alexnet.paper import TABLES

PAPER = cli.Paper('alexnet', EXPERIMENTS, build, TABLES, first_layer='conv1')

if __name__ == '__main__':
    cli.main(PAPER)
