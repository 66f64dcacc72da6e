"""Trains and evaluates VGG (Simonyan and Zisserman 2014), networks A to E: python -m launch.vgg --list"""
from launch.paper import main
from lib.paper import Paper
from reproductions.vgg.experiments import EXPERIMENTS
from reproductions.vgg.model import build
from reproductions.vgg.paper import COUNTS, SEEN, TABLES
from reproductions.vgg.weights import convert

PAPER = Paper('vgg', EXPERIMENTS, build, TABLES, first_layer='conv1_1', convert=convert, seen=SEEN,
              counts=COUNTS)

if __name__ == '__main__':
    main(PAPER)
