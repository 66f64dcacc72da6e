"""Trains and evaluates ZFNet (Zeiler and Fergus 2013) and the networks of its tables: python -m launch.zfnet --list"""
from launch.paper import main
from lib.paper import Paper
from reproductions.zfnet.experiments import EXPERIMENTS
from reproductions.zfnet.model import build
from reproductions.zfnet.paper import COUNTS, LESSONS, SEEN, TABLES
from reproductions.zfnet.weights import convert

PAPER = Paper('zfnet', EXPERIMENTS, build, TABLES, first_layer='conv1', convert=convert, seen=SEEN,
              counts=COUNTS, lessons={'paper': LESSONS})

if __name__ == '__main__':
    main(PAPER)
