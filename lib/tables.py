"""A paper's tables of error rates as data."""
import dataclasses
from typing import Literal

OTHERS = "other people's system, printed as context"    # why no experiment reproduces a row


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of error rates: what was counted, and on which split of the table's data."""
    name: str                                           # as printed
    metric: Literal['top1', 'top5']
    split: Literal['train', 'validation', 'test']
    decimals: int = 1                                   # as printed


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a paper's table. It names what reproduces it, one experiment or several averaged, or says why none does.

    Raises:
      ValueError: if it has neither an experiment nor members nor a reason, or two of them.
    """
    name: str
    values: tuple[float | None, ...]                    # %, one a column, as printed; None for a dash
    experiment: str | None = None                       # in the paper's EXPERIMENTS
    shorter: tuple[str, ...] = ()                       # experiments that stand for it with recipes that fit a laptop
    members: tuple[str, ...] = ()                       # instead: the experiments whose networks are averaged
    why: str = ''                                       # or: no experiment reproduces this row, because ...
    minus: str | None = None                            # the values are differences: `experiment` minus this one
    protocol: str | None = None                         # of the test: Evaluation.protocol; None if the paper is silent
    parameters: int | None = None                       # of each network; None if the paper does not say
    pretraining: int = 0                                # training images that the networks it starts from saw
    words: str = ''                                     # what is printed where that is no number: 'about 2'
    note: str = ''                                      # what the paper says of this row
    memory: bool = False                                # written down from memory, not yet checked against the paper

    def __post_init__(self) -> None:
        if bool(self.experiment) + bool(self.members) + bool(self.why) != 1:
            raise ValueError(f'row {self.name!r} must name its experiment, or else say why it has none')


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of error rates in %.

    Raises:
      ValueError: if a row has not one value a column.
    """
    title: str                                          # with the place in the paper
    data: str                                           # what the paper measured on
    source: str | None                                  # the data set that is the same thing here; None if none is
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    examples: int | None = None                         # in the split that was evaluated
    train_examples: int | None = None                   # in the training set
    epochs: float | None = None                         # of the paper's training

    @property
    def experiments(self) -> set[str]:
        """All that its rows name."""
        named = ((row.experiment, row.minus, *row.shorter, *row.members) for row in self.rows)
        return {name for names in named for name in names if name}

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.values) != len(self.columns):
                raise ValueError(f'row {row.name!r} of {self.title!r} has {len(row.values)} values for '
                                 f'{len(self.columns)} columns')
