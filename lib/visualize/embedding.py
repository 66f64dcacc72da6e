"""Images at the places that a layer gives them in two dimensions: PCA and t-SNE (van der Maaten and Hinton 2008) of its
vectors, and the t-SNE laid on a grid so that no image hides another (as in Karpathy's pictures of ImageNet).

How much of the classes a picture keeps is told by nearest neighbours: the share of images whose nearest has their
class, in the layer's own space and in each of the two dimensions.
"""
import colorsys
import dataclasses
import functools
import math
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image
from rich.console import Console
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from lib import features
from lib.data.sources import Split
from lib.experiment import require
from lib.visualize import GREY, MARGIN, SHARPNESS, Sheet, class_name, examples
from lib.visualize.request import Method, Request

SIDE = 720                  # of a panel
LEAST = 10                  # images
LEGEND = 20                 # classes at most that get one
LEGEND_COLUMNS = 4
PALETTE = ('#1f77b4', '#ff7f0e', '#2ca02c', '#d62728', '#9467bd', '#8c564b', '#e377c2', '#a0a0a0', '#bcbd22',
           '#17becf')


@dataclasses.dataclass(frozen=True)
class Options:
    examples: int = 1000        # images at most, evenly spaced over the split
    perplexity: float = 30.0    # of t-SNE: about the neighbours that an image keeps; a third of the images at most
    seed: int | None = None     # of t-SNE's random start; None: it starts from the PCA, and nothing is random

    def __post_init__(self):
        require(self.examples >= LEAST, f'embedding.examples={self.examples} must be at least {LEAST}.')
        require(self.perplexity >= 1, f'embedding.perplexity={self.perplexity} must be at least 1.')
        require(self.seed is None or 0 <= self.seed < 2**32,
                f'embedding.seed={self.seed} must be from 0 to {2**32 - 1}.')


class Embedding(NamedTuple):
    """Places of n images. Distances between rows of `vectors` are those in the layer, but for one scale."""
    vectors: np.ndarray         # float64 [n, d]
    pca: np.ndarray             # [n, 2]
    tsne: np.ndarray            # [n, 2]
    explained: float            # part of the variance that the two dimensions of the PCA have


def vectors(request: Request, layer: str, images: Split) -> np.ndarray:
    """float64 [n, d]: the outputs of a layer for all images of a split, maps flattened, in coordinates of as many
    dimensions as the images span at most; the outputs themselves lie in a file meanwhile."""
    with tempfile.TemporaryDirectory(dir=request.scratch) as folder:
        found = features.extract(functools.partial(_outputs, request, layer), images, request.batch_size,
                                 Path(folder) / 'vectors')
        return features.coordinates(found, found[:0])[0]


def _outputs(request: Request, layer: str, images: np.ndarray) -> np.ndarray:
    pixels = request.pixels(Split('', images, np.zeros(len(images)), ()), np.arange(len(images)))
    return np.asarray(request.activations(layer, pixels)).reshape(len(images), -1)


def embed(given: np.ndarray, perplexity: float, seed: int | None) -> Embedding:
    """PCA and t-SNE of vectors [n, d] about their mean; t-SNE starts from the PCA or, with a seed, at random.

    Raises:
      UsageError: if all vectors are the same.
    """
    _, lengths, directions = np.linalg.svd(given, full_matrices=False)
    require(lengths.size > 0 and lengths[0] > 0, 'The layer gives the same for all these images, so they have no '
                                                 'places: choose another --layer.')
    pca = given @ directions[:2].T
    pca = np.pad(pca, ((0, 0), (0, 2 - pca.shape[1])))
    with threadpool_limits(1):          # threads that wait for each other stall where the machine does other work
        tsne = TSNE(perplexity=min(perplexity, (len(given) - 1) / 3), random_state=seed,
                    init=pca / pca[:, 0].std() * 1e-4 if seed is None else 'random').fit_transform(given)
    return Embedding(given, pca, tsne, float((lengths[:2]**2).sum() / (lengths**2).sum()))


def agreement(places: np.ndarray, labels: np.ndarray) -> float:
    """The part of the rows of `places` whose nearest other row has their label."""
    _, nearest = NearestNeighbors(n_neighbors=1).fit(places).kneighbors()
    return float(np.mean(labels[nearest[:, 0]] == labels))


def chance(labels: np.ndarray) -> float:
    """The part of all pairs of images that have one label."""
    counts = np.unique(labels, return_counts=True)[1]
    return float((counts * (counts - 1)).sum() / (len(labels) * (len(labels) - 1)))


def grid(places: np.ndarray) -> tuple[np.ndarray, int]:
    """(int64 [n, 2]: column and row of each place [n, 2] on a square grid, none twice; cells a side), with the least
    sum of squared distances between the places, stretched to the square, and their cells."""
    side = math.ceil(math.sqrt(len(places)))
    cells = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)
    distances = cdist(_stretched(places), cells / max(1, side - 1), 'sqeuclidean')
    return cells[linear_sum_assignment(distances)[1]], side


def look(request: Request, options: Options, picture: Path) -> tuple[dict[str, Any], str]:
    layer, split = request.chosen_layer(), request.judged
    wanted = request.images if isinstance(request.images, tuple) else ()
    at = examples(split, wanted, options.examples)
    require(len(at) >= LEAST, f'--method=embedding needs at least {LEAST} images and has {len(at)}: choose more with '
                              '--images, or leave it out.')
    chosen = Split(split.name, split.images[at], split.labels[at], split.class_names)
    given = vectors(request, layer, chosen)
    with Console(stderr=True).status(f't-SNE of {len(at):,} images'):
        found = embed(given, options.perplexity, options.seed)
    known = chosen.labels >= 0
    labels = chosen.labels[known]
    shares = {space: agreement(places[known], labels) for space, places in
              ((layer, found.vectors), ('PCA', found.pca), ('t-SNE', found.tsne))} if len(labels) > 1 else {}
    numbers = {'layer': layer, 'data': split.name, 'images': at.tolist(), 'labelled': len(labels),
               'dimensions': math.prod(request.geometry[layer].size), 'explained': found.explained, 'shares': shares,
               'chance': chance(labels) if shares else None, 'pca': found.pca.tolist(), 'tsne': found.tsne.tolist()}
    if shares:
        rows = [[space, f'{100 * share:.1f}'] for space, share in (shares | {'chance': numbers['chance']}).items()]
        numbers['table'] = {'columns': ['Space', 'Nearest image has the same class, %'], 'rows': rows}
    draw(request, numbers, found, chosen, picture)
    return numbers, statement(numbers)


def statement(numbers: dict[str, Any]) -> str:
    count, labelled, layer = len(numbers['images']), numbers['labelled'], numbers['layer']
    said = (f'{count:,} images in {layer}; two dimensions of PCA have {100 * numbers["explained"]:.1f} % of the '
            'variance.')
    if not numbers['shares']:
        return f'{said} The images have no labels, so nothing is said of classes.'
    shares = [f'{100 * share:.1f} % in {_words(space, layer, numbers)}' for space, share in numbers['shares'].items()]
    part = f' of the {labelled:,} with a label' * (labelled < count)
    return (f'{said} The nearest image{part} has the same class for {shares[0]}, {shares[1]} and {shares[2]}, against '
            f'{100 * numbers["chance"]:.1f} % by chance.')


def _words(space: str, layer: str, numbers: dict[str, Any]) -> str:
    return f'{numbers["dimensions"]:,} dimensions' if space == layer else f'two of {space}'


# ---------------------------------------------------------------------------------------------- pictures

def colours(labels: np.ndarray) -> dict[int, tuple[float, float, float]]:
    """A colour for each label, grey for none."""
    classes = [int(label) for label in np.unique(labels) if label >= 0]
    if len(classes) <= len(PALETTE):
        found = dict(zip(classes, map(to_rgb, PALETTE)))
    else:
        found = {label: colorsys.hsv_to_rgb(i / len(classes), 0.9, 0.95 - 0.35 * (i % 2))
                 for i, label in enumerate(classes)}
    return found | {-1: to_rgb(GREY)}


def panel(images: np.ndarray, corners: np.ndarray, side: int, frames: np.ndarray | None) -> np.ndarray:
    """uint8 [SIDE, SIDE, 3] times SHARPNESS: images [n, S, S, 3] of `side` dots with their upper left corners at
    int [n, 2] (across, down), later ones on top, with frames of a colour [n, 3], 0 to 1."""
    canvas = Image.new('RGB', (SIDE * SHARPNESS, SIDE * SHARPNESS), 'white')
    width = max(2, round(0.09 * side)) if frames is not None else 0
    for i, (image, corner) in enumerate(zip(images, corners)):
        if width:
            frame = Image.new('RGB', (side, side), tuple(round(255 * part) for part in frames[i]))
            canvas.paste(frame, tuple(map(int, corner)))
        inner = side - 2 * width
        method = Image.Resampling.NEAREST if inner >= len(image) else Image.Resampling.BOX
        inside = tuple(int(place) + width for place in corner)
        canvas.paste(Image.fromarray(image).resize((inner, inner), method), inside)
    return np.asarray(canvas)


def _stretched(places: np.ndarray) -> np.ndarray:
    """Places [n, 2] from 0 to 1 in both directions."""
    low, high = places.min(0), places.max(0)
    return (places - low) / np.where(high > low, high - low, 1)


def draw(request: Request, numbers: dict[str, Any], found: Embedding, chosen: Split, path: Path) -> None:
    """Draws PCA, t-SNE and its grid one under the other, frames in the colours of the classes, and a legend."""
    own = colours(chosen.labels)
    classes = [label for label in own if label >= 0]
    legend = classes if len(classes) <= LEGEND else []
    frames = np.array([own[label] for label in chosen.labels.tolist()]) if classes else None
    images = request.pixels(chosen, np.arange(len(chosen)))
    cells, across = grid(found.tsne)
    cell = SIDE * SHARPNESS // across
    thumbnail = min(cell, SIDE * SHARPNESS // 12)
    space = SIDE * SHARPNESS - thumbnail
    panels = [(_heading(kind, numbers), panel(images, (space * _stretched(places)).astype(int), thumbnail, frames))
              for kind, places in (('PCA', found.pca), ('t-SNE', found.tsne))]
    panels.append(('t-SNE on a grid: no image hides another', panel(images, cells * cell, cell - 2, frames)))
    tall = -(-len(legend) // LEGEND_COLUMNS) * 24 + 10 * bool(legend)
    lines = [request.network.origin,
             f'{len(chosen):,} images of {chosen.name} by their {numbers["dimensions"]:,} outputs of '
             f'{numbers["layer"]}',
             ('Frames have the colours of the classes. ' + ('' if legend else f'There are {len(classes)} of them.'))
             if classes else 'The images have no labels.']
    if numbers['shares']:
        own_share = numbers['shares'][numbers['layer']]
        lines.append(f'In {numbers["layer"]} itself the nearest image has the same class for {100 * own_share:.1f} %, '
                     f'by chance for {100 * numbers["chance"]:.1f} %.')
    sheet = Sheet(SIDE, tall + 3 * (SIDE + 46) - 14, f'Images by {numbers["layer"]}: PCA and t-SNE', lines)
    for i, label in enumerate(legend):
        column, row, wide = i % LEGEND_COLUMNS, i // LEGEND_COLUMNS, SIDE / LEGEND_COLUMNS
        x, y = MARGIN + column * wide, sheet.top + 24 * row
        sheet.box(x, y, 14, 14, own[label])
        sheet.text(x + 20, y, class_name(chosen, label), wide - 26, size=14)
    for i, (heading, image) in enumerate(panels):
        y = sheet.top + tall + i * (SIDE + 46)
        sheet.text(MARGIN, y, heading, SIDE, size=15, color=GREY)
        sheet.image(MARGIN, y + 24, SIDE, SIDE, image)
    sheet.save(path)


def _heading(kind: str, numbers: dict[str, Any]) -> str:
    said = f', {100 * numbers["explained"]:.1f} % of the variance' if kind == 'PCA' else ''
    share = f': the nearest has the same class for {100 * numbers["shares"][kind]:.1f} %' if numbers['shares'] else ''
    return f'{kind}{said}{share}'


METHOD = Method(look, takes=frozenset({'layer', 'images'}), options=Options())
