"""Ways to share the training among devices, for the table of what they exchange: images among all of them, maps between
two as in Figure 2 of the paper, and "One weird trick" (Krizhevsky 2014) with the speed-ups that it prints."""
from lib.report import MEMORY
from lib.scaling import Scheme
from reproductions.alexnet.paper import WEIRD_TRICK

SEEN_IN_A_SOURCE = (8, 1024)        # GPUs and batch of the fully connected layers; the other times are from memory


def _printed(whole: bool) -> dict[int, str]:
    """Speed-ups of its Table 1 by GPUs, with fully connected layers that step once a batch, or every 128 images."""
    return {row.gpus: f'{WEIRD_TRICK[0].hours / row.hours:.2f}'
            + MEMORY * ((row.gpus, row.fc_batch) != SEEN_IN_A_SOURCE)
            for row in WEIRD_TRICK if row.gpus > 1 and whole == (row.fc_batch == row.batch)}


SCHEMES = (
    Scheme('data parallel', 'paper'),
    Scheme('split in two', 'paper', model=2),
    Scheme('one weird trick', 'one_weird_trick_128', grows=('batch_size', 'optimizer.fc_batch'),
           measured=_printed(whole=True)),
    Scheme('one weird trick, fc 128', 'one_weird_trick_128', measured=_printed(whole=False)),
)
