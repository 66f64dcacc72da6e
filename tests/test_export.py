"""A network in one small file: as good as its run to every command that takes weights."""
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch.papers import PAPERS
from lib import compact, trained
from lib.data.statistics import Statistics
from lib.experiment import UsageError
from tests.commands import TINY, launch, run_module

STATISTICS = Statistics(np.random.default_rng(0).uniform(0, 255, (6, 6, 3)).astype(np.float32),
                        np.array([3, 2, 1], np.float32), np.eye(3, dtype=np.float32))


def test_what_is_written_is_read_and_parameters_are_rounded_to_16_bits(tmp_path):
    params = {'conv1': {'kernel': np.full((2, 2), 1 / 3, np.float32)}, 'a.b': {'bias': np.zeros(3, np.float32)}}
    compact.write(tmp_path / 'net.safetensors', params, STATISTICS, {'paper': 'some', 'classes': ['é']})
    found, statistics, about = compact.read(tmp_path / 'net.safetensors')
    assert about['paper'] == 'some' and about['classes'] == ['é']
    assert found['conv1']['kernel'].dtype == np.float32 and found['a.b']['bias'].shape == (3,)
    assert (found['conv1']['kernel'] == np.float32(np.float16(1 / 3))).all()
    assert compact.rounding(params) == pytest.approx(abs(float(np.float16(1 / 3)) - 1 / 3) * 3, rel=1e-3)
    for name, array in statistics._asdict().items():
        np.testing.assert_array_equal(array, getattr(STATISTICS, name))


def test_moving_averages_keep_their_32_bits(tmp_path):
    params = {'conv1_norm': {'var': np.full(3, 1e-9, np.float32), 'scale': np.full(3, 1 / 3, np.float32)}}
    compact.write(tmp_path / 'net.safetensors', params, STATISTICS, {})
    found = compact.read(tmp_path / 'net.safetensors')[0]['conv1_norm']
    assert (found['var'] == np.float32(1e-9)).all() and (found['scale'] == np.float32(np.float16(1 / 3))).all()


def test_a_mean_that_is_the_same_everywhere_takes_no_room(tmp_path):
    flat = STATISTICS._replace(mean=np.full((256, 256, 3), [1, 2, 3], np.float32))
    compact.write(tmp_path / 'net.safetensors', {}, flat, {})
    assert (tmp_path / 'net.safetensors').stat().st_size < 2000
    np.testing.assert_array_equal(compact.read(tmp_path / 'net.safetensors')[1].mean, flat.mean)


def test_what_does_not_fit_16_bits_is_refused_and_the_old_file_stays(tmp_path):
    path = tmp_path / 'net.safetensors'
    compact.write(path, {}, STATISTICS, {})
    before = path.read_bytes()
    with pytest.raises(UsageError, match='too large for 16 bits'):
        compact.write(path, {'conv1': {'kernel': np.full(3, 1e5, np.float32)}}, STATISTICS, {})
    assert path.read_bytes() == before and compact.read(path.with_name('none')) is None


def test_an_exported_run_predicts_as_its_run(tmp_path):
    done = launch(*TINY, '--set=steps=2', f'--workdir={tmp_path / "run"}', cache=tmp_path)
    assert done.returncode == 0, done.stderr
    file = tmp_path / 'net.safetensors'
    done = run_module('launch.export', 'alexnet', f'--workdir={tmp_path / "run"}', f'--output={file}', cache=tmp_path)
    assert done.returncode == 0 and f'{file.stat().st_size:,} bytes' in done.stdout, done.stderr
    run, exported = trained.from_workdir(PAPERS['alexnet'], tmp_path / 'run'), trained.find(PAPERS['alexnet'], file)
    assert exported.experiment == run.experiment and exported.classes == run.classes and exported.step == 2
    images = np.random.default_rng(0).normal(0, 50, (4, 48, 48, 3)).astype(np.float32)
    one, two = (np.asarray(network.task.predict(network.params, images)) for network in (run, exported))
    np.testing.assert_allclose(two, one, atol=0.01)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-7), run.params, exported.params)
    results = json.loads((tmp_path / 'run' / 'results.json').read_text())
    assert compact.read(file)[2]['run']['command'] == results['command']
    with pytest.raises(UsageError, match='holds a network of alexnet: name one of nin'):
        trained.from_weights(PAPERS['nin'], file)


COMMITTED = sorted(Path(__file__).parent.parent.glob('reproductions/*/checkpoints/*.safetensors'))


@pytest.mark.parametrize('path', COMMITTED, ids=lambda path: f'{path.parent.parent.name}-{path.stem}')
def test_committed_networks_are_what_this_code_means_by_their_names(path):
    network = trained.find(PAPERS[path.parent.parent.name], str(path))
    shapes = jax.eval_shape(network.task.init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, network.params) == jax.tree.map(jnp.shape, shapes)
