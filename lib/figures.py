"""Pictures of a training and of a comparison. All are PNG files."""
import json
import math
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use('Agg')

import matplotlib.patheffects as patheffects  # noqa: E402  (the backend comes first)
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

from lib import effects, races, report  # noqa: E402
from lib.effects import Effects  # noqa: E402

BLUE, ORANGE, GREEN, PURPLE, GREY = '#1f5fa8', '#d1600a', '#2f8f4e', '#7b4aa5', '#6b6b6b'
COLOURS = (BLUE, ORANGE, GREEN, PURPLE)
DASHES = ('-', '--', '-.', ':')
DPI = 160
LINEAR = 4              # percentage points on either side of 0 that a wide picture of differences leaves undistorted


def metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl in the order of their steps. A step that was repeated after an interruption counts
    as it was last written; a line torn by the interruption was written again, and is passed over."""
    last = {}
    for text in Path(path).read_text().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        last[line['kind'], line['step'], line.get('split'), line.get('protocol')] = line
    return sorted(last.values(), key=lambda line: line['step'])


def training_curve(metrics_path: Path, judged: str, output_png: Path) -> None:
    """Draws training loss, and error on training batches and at every evaluation with one crop, against epochs. Where
    the last error is small, what lies above five times it is cut off.

    Args:
      metrics_path: a metrics.jsonl; errors in %.
      judged: what its evaluations of the validation split were on, for it may be a test set.
      output_png: the picture, 1600 x 640 pixels.
    """
    lines = metrics(metrics_path)
    training = [line for line in lines if line['kind'] == 'train']
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), dpi=DPI, layout='constrained')
    epochs = [line['epoch'] for line in training]
    end = max((line['epoch'] for line in lines), default=0)
    ends: list[tuple[float, str, str]] = []
    for axes, key in ((left, 'loss'), (right, 'error')):
        values = np.array([line[key] for line in training], float)
        axes.plot(epochs, values, color=BLUE, alpha=0.25, linewidth=0.8)
        smooth = _running_mean(values)
        axes.plot(epochs, smooth, color=BLUE, linewidth=1.8)
        if axes is right and len(smooth):
            ends.append((smooth[-1], 'training batches, top-1', BLUE))
    for split, colour in (('validation', ORANGE), ('train', GREEN)):
        passes = [line for line in lines if line['kind'] == 'evaluation' and line['split'] == split
                  and line['protocol'] == 'centre']
        for key, dash in (('top1', '-'), ('top5', ':')):
            values = np.array([line[key] for line in passes], float)
            right.plot([line['epoch'] for line in passes], values, dash, color=colour, linewidth=1.8,
                       marker='o' if len(values) < 30 else None, markersize=3.5)
            name = judged if split == 'validation' else 'whole training set'
            ends += [(values[-1], f'{name}, {report.METRICS[key]}', colour)] if len(values) else []
    left.set_title('Training loss', loc='left')
    right.set_title('Error, %', loc='left')
    last = max((value for value, *_ in ends if math.isfinite(value)), default=100)
    right.set_ylim(0, 100 if last > 10 else max(1, 5 * last))
    left.set_ylim(bottom=0)
    _name_ends(right, ends)
    for axes in (left, right):
        axes.set_xlim(0, end or 1)
        axes.set_xlabel('epochs')
        _plain(axes)
    figure.savefig(output_png)
    plt.close(figure)


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Means over the last 2 % of the points, which do not look ahead."""
    width = max(1, len(values) // 50)
    return np.array([values[max(0, i + 1 - width):i + 1].mean() for i in range(len(values))])


def _name_ends(axes: plt.Axes, ends: list[tuple[float, str, str]]) -> None:
    """Writes names to the right of the ends of lines, pushed apart so that none covers another."""
    low, high = axes.get_ylim()
    gap, place = 0.06 * (high - low), -math.inf
    for value, name, colour in sorted(end for end in ends if math.isfinite(end[0])):
        place = max(value, place + gap)
        axes.annotate(name, (1.02, place), xycoords=('axes fraction', 'data'), color=colour, va='center')


def _plain(axes: plt.Axes) -> None:
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(axis='y', color='#e4e4e4', linewidth=0.8)
    axes.set_axisbelow(True)


def comparison(results: dict[str, Any], tables: Iterable[Any], output_png: Path) -> None:
    """Draws a comparison: a race as its curves, another as the differences that the paper's tables make claims on.

    Args:
      results: of a comparison, of one seed or several.
      tables: the paper's.
      output_png: the picture.
    """
    if results['target'] is not None:
        _race(results, output_png)
    for table in tables:
        if isinstance(table, Effects) and table.experiment == results['experiment']:
            _differences(results, table, output_png)


def _differences(results: dict[str, Any], table: Effects, output_png: Path) -> None:
    """Draws each difference with its interval, a dot a seed, the side that the paper claims shaded; no
    difference, no picture."""
    found = list(effects.tested(results, table))
    if not found:
        return
    figure, axes = plt.subplots(figsize=(9, 1.6 + 0.5 * len(found)), dpi=DPI, layout='constrained')
    widest = 1.15 * max(max(map(abs, (*one.each, one.mean - _finite(one.half), one.mean + _finite(one.half))))
                        for _, one, _ in found)
    for row, (effect, one, said) in enumerate(found):
        if effect.sign is not None:
            axes.barh(row, widest * (1 if effect.sign == 'more' else -1), 0.8, color='#eef3ea')
        colour = {'holds': GREEN, 'does not hold': ORANGE}.get(said, GREY)
        axes.plot([one.mean - _finite(one.half), one.mean + _finite(one.half)], [row, row], color=colour, linewidth=2.2)
        axes.plot(one.mean, row, 'D', color=colour, markersize=6)
        axes.plot(one.each, [row] * len(one.each), 'o', color=colour, alpha=0.45, markersize=4)
    axes.axvline(0, color=GREY, linewidth=1)
    wide = widest > 5 * LINEAR              # one large effect would hide all others
    if wide:
        axes.set_xscale('symlog', linthresh=LINEAR)
        ticks = [tick for tick in (-50, -20, -10, -4, -2, -1, 0, 1, 2, 4, 10, 20, 50) if abs(tick) < widest]
        axes.set_xticks(ticks, labels=[f'{tick:+}' if tick else '0' for tick in ticks])
    axes.set_yticks(range(len(found)), [textwrap.fill(effect.claim, 44) for effect, *_ in found])
    axes.set_xlim(-widest, widest)
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlabel('difference, percentage points of top-1 error' +
                    f'; logarithmic beyond {LINEAR} on either side' * wide)
    marks = 'one seed' if all(len(one.each) == 1 for _, one, _ in found) else \
        'diamonds: means, dots: seeds, bars: 95 % intervals'
    figure.suptitle(f'{report.place(results, effects.measured(results)[0])}\n{marks}, shaded: the side that the paper '
                    'claims; the claim holds: green, does not: orange', fontsize=9, color=GREY)
    axes.spines[['top', 'right', 'left']].set_visible(False)
    axes.tick_params(axis='y', length=0)
    figure.savefig(output_png)
    plt.close(figure)


def _finite(half: float) -> float:
    return half if math.isfinite(half) else 0.0


def _race(results: dict[str, Any], output_png: Path) -> None:
    """Draws training error against epochs, one line style an arm: at its best learning rate bold, the rest of its
    grid faint; a dotted line at the target.

    Args:
      results: of a comparison; the first of its arms gets the solid line. An arm that never reached the target is
        shown bold at the learning rate that came closest.
      output_png: the picture, 1120 x 832 pixels.
    """
    target, grid = results['target'] / 100, races.entrants(results)
    winners = races.best(grid)
    names = list(dict.fromkeys(arm['name'] for arm in results['arms']))
    longest = max(point[0] for arm in results['arms'] for point in arm['curve'])
    figure, axes = plt.subplots(figsize=(7, 5.2), dpi=DPI, layout='constrained')
    halo = [patheffects.withStroke(linewidth=3, foreground='white')]
    axes.axhline(target, color=GREY, linestyle=':', linewidth=1.3)
    for number, name in enumerate(names):
        turn = number // len(COLOURS)       # a colour that comes again has another dash
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[(number + turn) % len(DASHES)]
        chosen = winners.get(name) or min((e for e in grid if e.name == name),
                                          key=lambda e: math.inf if e.lowest is None else e.lowest)
        own = [arm for arm in results['arms'] if arm['name'] == name]
        for arm in own:
            bold = arm['learning_rate'] == chosen.learning_rate
            epochs, percent = np.array(arm['curve'], float).T
            axes.plot(epochs, percent / 100, dash, color=colour, linewidth=2.2 if bold else 1,
                      alpha=1 if bold else 0.35, zorder=3 if bold else 2)
        if chosen.reached is None:
            place, words = chosen.epochs, 'not in '
        else:
            place, words = chosen.reached, ''
            axes.plot([place, place], [0, target], color=colour, linewidth=0.9)
        text = f'{name}: {words}{report.number(place)} epochs\n(learning rate {chosen.learning_rate:g})'
        late = place > 0.6 * longest
        axes.annotate(text, (place, target - 0.075 - 0.09 * (number % 2)), xytext=(-6 if late else 6, 0),
                      textcoords='offset points', ha='right' if late else 'left', va='center', color=colour,
                      path_effects=halo, zorder=4)
        others = sorted({arm['learning_rate'] for arm in own} - {chosen.learning_rate})
        if others:
            axes.annotate(f'thin: {name} at {", ".join(f"{rate:g}" for rate in others)}', (0.99, 0.97 - 0.055 * number),
                          xycoords='axes fraction', ha='right', va='top', fontsize=9, color=colour)
    axes.set_xlim(0, longest * 1.08)
    axes.set_ylim(0, 0.75)
    axes.set_yticks([0, 0.25, 0.5, 0.75])
    axes.set_xlabel('epochs')
    axes.set_ylabel('training error rate')
    axes.set_title(results['data']['name'], loc='left', fontsize=10, color=GREY, pad=12)
    axes.spines[['top', 'right']].set_visible(False)
    figure.savefig(output_png)
    plt.close(figure)
