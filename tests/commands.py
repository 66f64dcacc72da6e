"""A paper's launch script as a user types it, in a process of its own."""
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
TINY = ['--experiment=quickstart', '--set', 'data.image_size=48', '--set', 'data.resize=52',
        '--set', 'model.widths=[4,4,4,4,4]', '--set', 'model.fc_width=8', '--set', 'evaluation.examples=20']


def command(*flags, cache):
    """What subprocess needs to run launch.alexnet with these flags, without data sets and with a cache of its own."""
    environment = os.environ | {'XDG_CACHE_HOME': str(cache), 'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
                                'TFDS_DATA_DIR': str(cache / 'none')}
    return dict(args=[sys.executable, '-m', 'launch.alexnet', *map(str, flags)], cwd=ROOT, env=environment, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def launch(*flags, cache):
    """Runs it to its end."""
    return subprocess.run(**command(*flags, cache=cache), timeout=300)


def run_module(module, *flags, cache):
    """Another module likewise."""
    return subprocess.run(**command(cache=cache) | {'args': [sys.executable, '-m', module, *map(str, flags)]},
                          timeout=300)
