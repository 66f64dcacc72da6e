"""What several test files ask for. All tests of a session share eight CPU devices and a cache of compiled programs."""
import os

import jax
import pytest

from launch import cli

os.environ['NPROC'] = '10'      # threads of XLA:CPU's pool; a device that waits for another blocks one
# XLA:CPU's older code generator takes less than half as long to compile a step. Processes that tests start inherit it.
os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_cpu_use_fusion_emitters=false'
jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_disable_most_optimizations', True)       # compiling is most of the time of these tests
jax.config.update('jax_compilation_cache_dir', str(cli.CACHE / 'xla-tests'))
jax.devices()


@pytest.fixture(autouse=True, scope='module')
def programs_go_with_their_file():
    """Every compiled program holds memory maps, of which Linux gives a process 65,530: with those of all tests jaxlib
    ends in a segmentation fault."""
    yield
    jax.clear_caches()


@pytest.fixture
def data_dir() -> str:
    """The TFDS data directory of the environment; tests that need the real data sets are skipped without it."""
    directory = os.environ.get('TFDS_DATA_DIR')
    if not directory:
        pytest.skip('needs prepared data sets: set TFDS_DATA_DIR to a TFDS data directory')
    return directory
