"""Looks at several networks with every method: python -m launch.gallery

Without flags these are the small networks in this repository, on images that scikit-learn ships: its digits, and
squares cut from its two photographs. With --networks they are others, on the data that they were trained and judged on.
It writes a folder for each network, index.html, one page of all pictures, and methods.json: which method works on which
network, and why others refuse. What is there of other networks stays. --set sets what launch.visualize sets, for the
method that it names or, as for --set data.validation_split=validation[:100], for all.
"""
import datetime
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import app, flags
from PIL import Image

from launch import cli, visualize, workdir
from launch.cli import FLAGS
from launch.papers import PAPERS
from lib import geometry, trained
from lib.experiment import UsageError, require
from lib.trained import Trained
from lib.visualize import page

ROOT = Path(__file__).parent.parent
DIGITS = ('--set=data.source=digits', '--set=data.resize=28', '--set=data.validation_split=validation')
SQUARES = (427, 284, 213)       # pixels a side of those cut from the photographs, 427 x 640, half of them apart


class Network(NamedTuple):
    name: str                       # of its folder
    paper: str
    path: str                       # of its run or file of weights
    images: tuple[str, str] | None = None       # folders: a few images to look at, and many to search; None for a split
    flags: tuple[str, ...] = ()
    classes: str = ''               # whose models are made, where its data cannot say which occur


# The committed networks, in pairs that read the same images. Digits are not MNIST, nor the photographs CIFAR-10.
SMALL = (
    Network('lenet5', 'lenet5', 'reproductions/lenet5/checkpoints/mnist.safetensors', flags=DIGITS),
    Network('nin', 'nin', 'reproductions/nin/checkpoints/mnist.safetensors', flags=DIGITS),
    Network('cifar', 'alexnet', 'reproductions/alexnet/checkpoints/cifar_80sec.safetensors'),
    Network('alexnet', 'alexnet', 'reproductions/alexnet/checkpoints/small.safetensors',
            classes='[0,217,482,491,497,566,569,571,574,701]'),     # of Imagenette
)
# {second} and {last} are convolutions of a network, {other} is the other network of its pair.
LOOKS = (
    'kernels', 'kernels --layer={second}', 'compare --other={other}', 'activations --layer={second}',
    'confidence_maps', 'patches --layer={last}', 'deconvnet --layer={second}', 'deconvnet --layer={last}',
    'deconvnet --layer={last} --set=deconvnet.rule=guided', 'evolution --layer={last}', 'invariance', 'occlusion',
    'correspondence', 'saliency', 'saliency --layer={last}', 'guided', 'segmentation', 'class_model',
    'adversarial', 'adversarial --set=adversarial.kind=lbfgs', 'adversarial_errors', 'transfer --other={other}',
    'predictions', 'neighbours', 'embedding', 'table7', 'pooling', 'receptive_field --layer={last}',
)
SEARCHING = ('patches', 'deconvnet', 'evolution', 'embedding', 'adversarial_errors', 'transfer', 'correspondence')
NETWORKS = flags.DEFINE_list('networks', [], 'instead of the small ones: PAPER:DIR or PAPER:FILE, or NAME=PAPER:DIR')
LOOK_AT = flags.DEFINE_list('look_at', [], 'names of some of the networks; the others are there to be compared with')
METHODS = flags.DEFINE_list('methods', [], 'only these; what is known of others stays')


def gallery() -> None:
    cli.prepare()
    folder = Path(FLAGS.output or 'runs/gallery').expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / 'methods.json'
    before = json.loads(path.read_text()) if path.exists() else {}
    networks = [_named(text) for text in NETWORKS.value] or _small(folder)
    wanted, own = METHODS.value, [f'--set={assignment}' for assignment in FLAGS.set]
    for method in wanted:
        require(method in visualize.METHODS, f'--methods: {method} is not known: choose from '
                                             f'{", ".join(visualize.METHODS)}.')
    chosen, found = LOOK_AT.value or [network.name for network in networks], {}
    command = shlex.join(['python', '-m', 'launch.gallery', *sys.argv[1:]])
    about = {'commit': workdir.commit(), 'date': datetime.date.today().isoformat()}
    for network in networks:
        if network.name in chosen:
            known = before.get(network.name, {}) if wanted else {}
            others = {method: reason for method, reason in known.get('methods', {}).items() if method not in wanted}
            found[network.name] = about | {
                'commands': [*known.get('commands', []), command], 'methods': others,
                'origin': trained.find(PAPERS[network.paper], network.path).origin}
    looks = [(network, words) for i, network in enumerate(networks) if network.name in chosen
             for words in _looks(network, (networks + networks[:1])[i ^ 1]) if not wanted or words[0] in wanted]
    began = time.monotonic()
    for done, (network, words) in enumerate(looks):
        cli.say(f'{done} of {len(looks)} done, {(time.monotonic() - began) / 60:.0f} minutes: {network.name}, '
                f'{" ".join(words)}')
        refusal = _look(network, words, folder, own)
        if refusal:
            cli.say(f'Refused: {refusal}')
        methods = found[network.name]['methods']
        methods[words[0]] = refusal and methods.get(words[0], refusal)      # one look that works is enough
        path.write_text(json.dumps(before | found, indent=1, ensure_ascii=False) + '\n')
    cli.say(f'Written: {page.write(folder, "Inside the classic ConvNets", visualize.ABOUT)} and methods.json')


def _named(text: str) -> Network:
    name, sign, rest = text.rpartition('=')
    paper, colon, path = rest.partition(':')
    require(bool(colon) and paper in PAPERS, f'--networks={text}: write PAPER:DIR, where PAPER is one of '
                                             f'{", ".join(PAPERS)}.')
    return Network(name if sign else paper, paper, path)


def _small(folder: Path) -> list[Network]:
    images = tuple(map(str, photographs(folder)))
    networks = [network._replace(path=os.path.relpath(ROOT / network.path)) for network in SMALL]
    return [network if network.flags else network._replace(images=images) for network in networks]


def photographs(folder: Path) -> tuple[Path, Path]:
    """Writes scikit-learn's photographs, and squares of several sizes cut from them, into two folders."""
    from sklearn.datasets import load_sample_images  # slow to import
    whole, squares = folder / 'images' / 'photographs', folder / 'images' / 'squares'
    found = load_sample_images()
    for name, image in zip(found.filenames, found.images):
        stem = Path(name).stem
        for path, pixels in [(whole / f'{stem}.png', image)] + [
                (squares / f'{stem}-{side}-{top}-{left}.png', image[top:top + side, left:left + side])
                for side, top, left in _places(*image.shape[:2])]:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return whole, squares


def _places(height: int, width: int) -> Iterator[tuple[int, int, int]]:
    """Side, top and left of squares."""
    for side in SQUARES:
        for top, left in np.ndindex((height - side) // (side // 2) + 1, (width - side) // (side // 2) + 1):
            yield side, top * side // 2, left * side // 2


def _looks(network: Network, other: Network) -> list[list[str]]:
    """Of each look at a network, the method and its flags."""
    known = trained.find(PAPERS[network.paper], network.path)
    convolutions = _convolutions(known)
    names = {'second': convolutions[min(1, len(convolutions) - 1)], 'last': convolutions[-1],
             'other': f'{other.paper}:{other.path}'}
    return [[word.format(**names) for word in text.split()] for text in LOOKS]


def _convolutions(network: Trained) -> list[str]:
    """Layers with convolutions whose outputs have places."""
    layers = geometry.measure(network.task, network.experiment.data.image_size).layers
    return [layer.name for layer in layers if layer.kind == 'convolution' and layer.window.size > 1]


def _look(network: Network, words: list[str], folder: Path, own: list[str]) -> str | None:
    """What launch.visualize does; why it refuses, or None."""
    method, *rest = words
    where = 'workdir' if Path(network.path).expanduser().is_dir() else 'weights'
    images = network.images and 'images' in visualize.METHODS[method][0].takes and method != 'class_model'
    own = [flag for flag in own if flag.startswith(tuple(f'--set={name}.' for name in ('data', 'evaluation', method)))]
    given = [network.paper, f'--{where}={network.path}', f'--method={method}', *rest, *network.flags, *own,
             *([f'--images={network.images[method in SEARCHING]}'] if images else []),
             *([f'--unit={network.classes}'] if network.classes and method == 'class_model' else [])]
    FLAGS.unparse_flags()
    try:
        words = [*given, f'--output={folder / network.name}']
        visualize.main(cli.parse_after_name(['launch.visualize', *words]), words)
    except UsageError as error:
        return str(error)
    return None


if __name__ == '__main__':
    app.run(lambda argv: cli.guarded(gallery), flags_parser=cli.parse_flags)
