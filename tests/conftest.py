"""What several test files ask for."""
import os

import pytest


@pytest.fixture
def data_dir() -> str:
    """The TFDS data directory of the environment; tests that need the real data sets are skipped without it."""
    directory = os.environ.get('TFDS_DATA_DIR')
    if not directory:
        pytest.skip('needs prepared data sets: set TFDS_DATA_DIR to a TFDS data directory')
    return directory
