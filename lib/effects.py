"""Claims on what a change does to error, tested by the arms of a comparison: each pair of arms has the same seeds, and
the mean of their differences has a 95 % interval by Student's t."""
import dataclasses
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from scipy import special

from lib.results import origin


@dataclasses.dataclass(frozen=True)
class Effect:
    """A claim, and the two arms whose difference in error tests it."""
    claim: str                                          # what `arm` changes
    arm: str
    against: str
    paper: str                                          # what the paper says of the difference, and where
    sign: Literal['more', 'less'] | None                # error that it says `arm` has beside `against`; None: no claim
    overfitting: bool = False                           # not error itself but what it has above that in training


@dataclasses.dataclass(frozen=True)
class Effects:
    """The claims that a comparison was made for."""
    title: str
    data: str                                           # as a person calls it
    source: str                                         # the data set
    experiment: str                                     # a Comparison that is no race
    rows: tuple[Effect, ...]


class Where(NamedTuple):
    """What an error is of."""
    split: str
    protocol: str                                       # Evaluation.protocol: the crops of each image


class Difference(NamedTuple):
    """Error of one arm minus that of another, in percentage points, of the seeds that both have."""
    each: tuple[float, ...]                             # by seed
    mean: float
    half: float                                         # of the 95 % interval; infinite for one seed
    ours: float                                         # mean error of the one, %
    theirs: float                                       # and of the other

    @property
    def sign(self) -> str | None:
        """'more' or 'less' error, if zero lies outside the interval; seeds that differ by the same give none."""
        return None if abs(self.mean) <= self.half or self.half < 1e-9 else 'more' if self.mean > 0 else 'less'

    def __str__(self) -> str:
        if math.isinf(self.half):
            return f'{self.mean:+.2f}'
        return f'{self.mean:+.2f} ({self.mean - self.half:+.2f} to {self.mean + self.half:+.2f})'


def measured(results: dict[str, Any]) -> list[Where]:
    """What the arms were measured on, the comparison's own split and protocol first."""
    return list(dict.fromkeys(_where(error) for arm in results['arms'] for error in arm['errors']))


def _where(error: dict[str, Any]) -> Where:
    return Where(error['split'], error['protocol'])


def top1(arm: dict[str, Any], where: Where) -> float | None:
    """The top-1 error in % of one run of an arm; None if it has none."""
    return next((error['top1'] for error in arm['errors'] if _where(error) == where), None)


def errors(results: dict[str, Any], arm: str, where: Where) -> dict[int, float]:
    """{seed: top-1 error in %} of an arm."""
    found = {one['seed']: top1(one, where) for one in results['arms'] if one['name'] == arm}
    return {seed: error for seed, error in found.items() if error is not None}


def trained_on(results: dict[str, Any]) -> str:
    """The split of the training images."""
    return origin(results['data']['name'])[1]


def overfitting(results: dict[str, Any], arm: str, where: Where) -> dict[int, float]:
    """{seed: top-1 error minus that on the training images by the same protocol, in percentage points} of an arm."""
    in_training = errors(results, arm, where._replace(split=trained_on(results)))
    found = errors(results, arm, where)
    return {seed: found[seed] - in_training[seed] for seed in found.keys() & in_training.keys()}


def difference(results: dict[str, Any], effect: Effect, where: Where) -> Difference | None:
    """Of the seeds that both arms were trained with; None if there are none."""
    measure = overfitting if effect.overfitting else errors
    return paired(*(measure(results, arm, where) for arm in (effect.arm, effect.against)))


def judged(results: dict[str, Any], effect: Effect, where: Where) -> tuple[Difference, str] | None:
    """The difference and what it says of the claim. A network that fits its training images less well lies less far
    above them in any case, so that less overfitting is no finding where the mean error is greater."""
    found = difference(results, effect, where)
    if found is None:
        return None
    said = verdict(effect, found)
    if effect.overfitting and effect.sign == 'less' and found.mean < 0:
        error = difference(results, dataclasses.replace(effect, overfitting=False), where)
        if error.mean > 0:
            said = 'undecided: nearer to the training error, but more error'
    return found, said


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference | None:
    """Of the seeds, the keys, that both have; None if there are none."""
    both = sorted(ours.keys() & theirs.keys())
    if not both:
        return None
    each = tuple(ours[seed] - theirs[seed] for seed in both)
    return Difference(each, statistics.fmean(each), half_interval(each),
                      *(statistics.fmean(errors[seed] for seed in both) for errors in (ours, theirs)))


def half_interval(values: Sequence[float]) -> float:
    """Half the length of the 95 % interval around the mean of values by Student's t; infinite for one."""
    if len(values) < 2:
        return math.inf
    return float(special.stdtrit(len(values) - 1, 0.975)) * statistics.stdev(values) / len(values)**0.5


def verdict(effect: Effect, found: Difference) -> str:
    """What the difference says of the claim."""
    if effect.sign is None:
        unseen = 'undecided' if math.isinf(found.half) else 'no difference seen'
        return {None: unseen, 'more': 'more error', 'less': 'less error'}[found.sign]
    if found.sign is not None:
        return 'holds' if found.sign == effect.sign else 'does not hold'
    leans = {'more': found.mean, 'less': -found.mean}[effect.sign]
    return 'undecided' + (leans > 0) * ', leans towards it' + (leans < 0) * ', leans against it'


def tested(results: dict[str, Any], effects: Effects) -> Iterator[tuple[Effect, Difference, str]]:
    """Every claim that the results speak to, with the difference by the comparison's own split and protocol and what it
    says."""
    for where in measured(results)[:1]:
        for effect in effects.rows:
            found = judged(results, effect, where)
            if found is not None:
                yield effect, *found
