"""Claims on how much sooner one arm of a comparison reaches an error than another, each at its best learning rate."""
import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lib import effects


@dataclasses.dataclass(frozen=True)
class Race:
    """A figure whose point is how many epochs pass until each of its curves falls below a line."""
    title: str                                          # with the place in the paper
    data: str
    source: str | None
    experiment: str                                     # a Comparison, whose arms have the names below
    faster: str
    slower: str
    factor: float                                       # `slower` needs so many times the epochs of `faster`
    claim: str                                          # the factor in the paper's words
    target: float                                       # the line, %
    epochs: Mapping[str, str]                           # {arm: epochs as read off the figure}
    memory: bool = False                                # `epochs` come from memory


@dataclasses.dataclass(frozen=True)
class Entrant:
    """One learning rate of one arm, its seeds averaged."""
    name: str
    learning_rate: float
    seeds: int
    arrived: int                                        # seeds that got there
    reached: float | None                               # epochs; None if one of the seeds did not get there
    epochs: float                                       # trained, the shortest of the seeds
    lowest: float | None                                # % top-1, the best evaluation of all seeds


def entrants(results: dict[str, Any]) -> list[Entrant]:
    """The grid of a comparison in the order of its arms, runs that differ only in their seed taken together."""
    groups: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for arm in results['arms']:
        groups.setdefault((arm['name'], arm['learning_rate']), []).append(arm)
    return [Entrant(name, rate, len(arms), sum(arm['epochs_to'] is not None for arm in arms),
                    None if any(arm['epochs_to'] is None for arm in arms) else
                    sum(arm['epochs_to'] for arm in arms) / len(arms),
                    min(arm['epochs'] for arm in arms),
                    min((top1 for arm in arms for _, top1 in arm['curve'] if top1 is not None and
                         math.isfinite(top1)), default=None))
            for (name, rate), arms in groups.items()]


def best(grid: Sequence[Entrant]) -> dict[str, Entrant]:
    """The learning rate of every arm that reached the target first, of those with the most seeds: means over other
    seeds cannot be compared. Arms of which none got there with all of these are left out."""
    winners: dict[str, Entrant] = {}
    for name in dict.fromkeys(entrant.name for entrant in grid):
        own = [entrant for entrant in grid if entrant.name == name]
        most = max(entrant.seeds for entrant in own)
        arrived = [entrant for entrant in own if entrant.seeds == most and entrant.reached is not None]
        if arrived:
            winners[name] = min(arrived, key=lambda entrant: entrant.reached)
    return winners


class SpeedUp(NamedTuple):
    """How many times the epochs of the faster arm the slower one needed, each at its best learning rate."""
    each: tuple[float, ...]                             # by seed, of those with which both got there
    seeds: int                                          # on which the factor rests
    factor: float                                       # the mean
    half: float                                         # of the 95 % interval; 0 for one seed
    bound: bool                                         # the slower arm never got there: it needs more than that
    rates: int                                          # tried of the arm of which fewer were

    def __str__(self) -> str:
        interval = f' ({self.factor - self.half:.1f} to {self.factor + self.half:.1f})' if self.half else ''
        return f'{"more than " * self.bound}{self.factor:.1f} times{interval}'


def speed_up(results: dict[str, Any], race: Race) -> SpeedUp | None:
    """None if the arm that is to be faster did not get there with every seed, or the two have no seed in common."""
    grid = entrants(results)
    winners = best(grid)
    slow = [e for e in grid if e.name == race.slower]
    if race.faster not in winners or not slow:
        return None
    fastest = winners[race.faster].reached
    rates = min(len(slow), sum(e.name == race.faster for e in grid))
    if race.slower not in winners:
        return SpeedUp((), min(e.seeds for e in (*slow, winners[race.faster])), min(e.epochs for e in slow) / fastest,
                       0.0, True, rates)
    by_seed: dict[int, dict[str, float]] = {}
    for arm in results['arms']:
        if arm['name'] in winners and arm['learning_rate'] == winners[arm['name']].learning_rate:
            by_seed.setdefault(arm['seed'], {})[arm['name']] = arm['epochs_to']
    each = tuple(epochs[race.slower] / epochs[race.faster] for _, epochs in sorted(by_seed.items())
                 if {race.faster, race.slower} <= epochs.keys())
    if not each:
        return None
    half = effects.half_interval(each) if len(each) > 1 else 0.0
    return SpeedUp(each, len(each), statistics.fmean(each), half, False, rates)


def verdict(found: SpeedUp | None, race: Race) -> str:
    """Whether the factor of the paper, rounded as it is, lies within the 95 % interval of the seeds, and 1 does not.
    One seed has no interval: it decides nothing."""
    if found is None:
        return f'undecided: no seed with which {race.faster} and {race.slower} can be compared'
    low, high = found.factor - found.half, found.factor + found.half
    few = [what for what, count in (('seed', found.seeds), ('rate', found.rates)) if count == 1]
    lone = f' (one {" and one ".join(few)})' * bool(few)
    holds, misses = ('undecided, leans towards it', 'undecided, leans against it') if found.seeds == 1 else \
        ('holds', f'not {race.factor:g} times')
    if low > race.factor + 0.5:
        return f'{holds}: more than {race.factor:g} times{lone}'
    if high >= race.factor - 0.5:
        return (holds if low > 1 else 'undecided') + lone
    if found.bound:
        return 'undecided'
    which = f'{race.faster} is {"faster" if low > 1 else "slower"}' if low > 1 or high < 1 else \
        'undecided which is faster'
    return f'{misses}; {which}{lone}'
