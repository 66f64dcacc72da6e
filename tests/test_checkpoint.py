"""Checkpoints: exact round trips, and every way in which a file or a run can break."""
import errno
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lib.checkpoint import Checkpoints, read
from lib.experiment import UsageError


def make_state(seed: int = 0) -> dict:
    kernel = jax.random.normal(jax.random.key(seed), (4, 6))
    return {'params': {'conv1': {'kernel': kernel, 'bias': jnp.full(6, jnp.nan)},
                       'fc8': {'kernel': kernel.astype(jnp.bfloat16)}},
            'velocity': {'conv1': {'kernel': -kernel * 1e-42}},
            'step': jnp.int32(seed), 'key': jax.random.key_data(jax.random.key(seed))}


def abstract(state: dict) -> dict:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def assert_same(left: dict, right: dict) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right)):
        assert (a.dtype, a.shape, np.asarray(a).tobytes()) == (b.dtype, b.shape, np.asarray(b).tobytes())


def save_steps(directory: Path, *steps: int, **marks: list[int]) -> None:
    with Checkpoints(directory) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), {'step': step}, **{name: step in marks[name] for name in marks})


def folders(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def restored_step(directory: Path) -> int | None:
    found = Checkpoints(directory).restore(abstract(make_state()))
    return found and found[0]


def test_round_trip_is_bit_exact(tmp_path):
    state, progress = make_state(3), {'errors': [37.5, 18.2], 'drops': 1}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state, progress)
        progress['drops'] = 2
    step, restored, found = Checkpoints(tmp_path).restore(abstract(state))
    assert (step, found) == (3, {'errors': [37.5, 18.2], 'drops': 1})
    assert_same(restored, state)


def test_no_checkpoint_restores_none(tmp_path):
    assert restored_step(tmp_path / 'new') is None


@pytest.mark.parametrize('flip', [0, -1])
def test_one_flipped_byte_falls_back(tmp_path, capsys, flip):
    save_steps(tmp_path, 1, 2)
    files = sorted((path for path in (tmp_path / '00000002').rglob('*') if path.is_file() and path.stat().st_size),
                   key=lambda path: path.stat().st_size)
    for file in files:
        content = file.read_bytes()
        damaged = bytearray(content)
        damaged[flip] ^= 1
        file.write_bytes(damaged)
        assert restored_step(tmp_path) == 1, file
        report = capsys.readouterr().err
        assert re.fullmatch(r'The checkpoint .*00000002 is damaged \(.*\) and is passed over\.\n', report)
        file.write_bytes(content)
    assert restored_step(tmp_path) == 2


def test_missing_file_falls_back(tmp_path):
    save_steps(tmp_path, 1, 2)
    (tmp_path / '00000002' / 'state' / 'manifest.ocdbt').unlink()
    assert restored_step(tmp_path) == 1


def test_a_damaged_step_is_not_counted_as_a_fallback(tmp_path):
    save_steps(tmp_path, 1, 5, best=[5])
    (tmp_path / '00000005' / 'progress.json').write_text('{"step": 6}')
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(abstract(make_state()))[0] == 1
        checkpoints.save(3, make_state(3), {})
    assert folders(tmp_path) == ['00000001', '00000003']


def test_incomplete_step_is_ignored_and_cleaned(tmp_path, capsys):
    save_steps(tmp_path, 1, 2)
    (tmp_path / '00000002' / 'digest.json').unlink()
    assert restored_step(tmp_path) == 1
    assert capsys.readouterr().err == ''
    save_steps(tmp_path, 3)
    assert folders(tmp_path) == ['00000001', '00000003']


def test_leftovers_of_a_crash_are_ignored_and_cleaned(tmp_path):
    save_steps(tmp_path, 1, 2)
    (tmp_path / '00000002').rename(tmp_path / '00000002.tmp')
    (tmp_path / '00000003.tmp.orbax-checkpoint-tmp' / 'state').mkdir(parents=True)
    assert restored_step(tmp_path) == 1
    save_steps(tmp_path, 3)
    assert folders(tmp_path) == ['00000001', '00000003']


def run(program: str, directory: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, '-c', program, str(directory)], cwd=Path(__file__).parents[1], text=True,
                          capture_output=True)


def test_a_killed_process_leaves_the_last_complete_step(tmp_path):
    killed = run("""
import os, sys
import jax.numpy as jnp
from lib import checkpoint
checkpoints = checkpoint.Checkpoints(sys.argv[1])
checkpoints.save(1, {'params': {'fc8': jnp.zeros(9)}}, {})
checkpoints.wait()
checkpoint._digest = lambda file: os.kill(os.getpid(), 9)
checkpoints.save(2, {'params': {'fc8': jnp.ones(9)}}, {})
checkpoints.wait()
""", tmp_path)
    assert killed.returncode == -9
    assert len(folders(tmp_path)) == 2
    assert read(tmp_path)['fc8'].sum() == 0


def test_an_error_in_training_does_not_lose_the_save_before_it(tmp_path):
    with pytest.raises(ZeroDivisionError), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, make_state(7), {})
        raise ZeroDivisionError
    assert folders(tmp_path) == ['00000007']


def test_retention(tmp_path):
    save_steps(tmp_path, 1, 2, 3, 4, 5, permanent=[1], best=[2, 3])
    assert folders(tmp_path) == ['00000001', '00000003', '00000004', '00000005']
    save_steps(tmp_path, 6)
    assert folders(tmp_path) == ['00000001', '00000003', '00000005', '00000006']
    assert [path.parent.name for path in tmp_path.glob('*/best')] == ['00000003']


def test_what_cannot_be_deleted_ends_no_training(tmp_path, monkeypatch):
    """NFS keeps a deleted file under another name, and its folder, as long as someone reads it."""
    def refuse(path, **options):
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)

    save_steps(tmp_path, 1)
    (tmp_path / '00000000.tmp').mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, 'rmdir', refuse)
        save_steps(tmp_path, 2, 3)
    assert folders(tmp_path) == ['00000000.tmp', '00000001', '00000002', '00000003']
    assert not (tmp_path / '00000001' / 'digest.json').exists()
    save_steps(tmp_path, 4)
    assert folders(tmp_path) == ['00000003', '00000004']


def test_a_step_saved_again_replaces_the_old_one_and_keeps_its_marks(tmp_path):
    save_steps(tmp_path, 1, permanent=[1])
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(8), {'again': True}, best=True)
    save_steps(tmp_path, 2, 3, 4, 5, best=[3])
    assert folders(tmp_path) == ['00000001', '00000003', '00000004', '00000005']
    assert_same(read(tmp_path / '00000001'), make_state(8)['params'])
    assert json.loads((tmp_path / '00000001' / 'progress.json').read_text()) == {'again': True}


def test_restores_to_another_mesh(tmp_path):
    wide, tall = (NamedSharding(jax.make_mesh(shape, ('data', 'model'), axis_types=(AxisType.Auto,) * 2,
                                              devices=jax.devices()[:2]), PartitionSpec('data', 'model'))
                  for shape in ((1, 2), (2, 1)))
    state = {'params': {'fc8': {'kernel': jax.device_put(jnp.arange(24.0).reshape(4, 6), wide)}}}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
    wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=tall), state)
    restored = Checkpoints(tmp_path).restore(wanted)[1]
    kernel = restored['params']['fc8']['kernel']
    assert kernel.sharding == tall
    assert [shard.data.shape for shard in kernel.addressable_shards] == [(2, 6), (2, 6)]
    assert_same(restored, state)


@pytest.mark.parametrize('change, message', [
    (lambda state: state['params']['fc8'].update(kernel=jnp.zeros((4, 7), jnp.bfloat16)),
     r'params\.fc8\.kernel is bfloat16\[4, 6\] there and bfloat16\[4, 7\] here'),
    (lambda state: state['params']['fc8'].update(kernel=jnp.zeros((4, 6))),
     r'params\.fc8\.kernel is bfloat16\[4, 6\] there and float32\[4, 6\] here'),
    (lambda state: state['params'].pop('fc8'), r'params\.fc8\.kernel is bfloat16\[4, 6\] there and absent here'),
    (lambda state: state['params'].update(fc9=jnp.zeros(2)), r'params\.fc9 is absent there and float32\[2\] here'),
])
def test_another_network_is_an_error(tmp_path, change, message):
    save_steps(tmp_path, 1)
    other = make_state()
    change(other)
    with pytest.raises(UsageError, match=message):
        Checkpoints(tmp_path).restore(abstract(other))


def test_arrays_may_be_donated_as_soon_as_save_returns(tmp_path):
    overwrite = jax.jit(lambda state: jax.tree.map(lambda x: x * 0 - 7, state), donate_argnums=0)
    sharding = NamedSharding(jax.make_mesh((2,), ('model',), axis_types=(AxisType.Auto,), devices=jax.devices()[:2]),
                             PartitionSpec(None, 'model'))
    saved = {'params': {f'fc{i}': jax.random.normal(jax.random.key(i), (500, 1000)) for i in range(6)}}
    for step, placement in enumerate((jax.devices()[0], sharding)):
        state = jax.device_put(jax.tree.map(jnp.copy, saved), placement)
        with Checkpoints(tmp_path) as checkpoints:
            donated = threading.Event()
            checkpoints._worker.submit(donated.wait)
            checkpoints.save(step, state, {})
            for _ in range(5):
                state = overwrite(state)
            jax.block_until_ready(state)
            donated.set()
        assert_same(read(tmp_path / f'{step:08d}'), saved['params'])


def test_read(tmp_path):
    save_steps(tmp_path, 1, 2, 3, best=[1])
    params = read(tmp_path)
    assert_same(params, make_state(3)['params'])
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(params))
    assert_same(read(tmp_path / '00000002', 'velocity'), make_state(2)['velocity'])
    (tmp_path / '00000003' / 'progress.json').write_text('')
    assert_same(read(tmp_path), make_state(2)['params'])
    with pytest.raises(UsageError, match='has no mean: it has key, params, step, velocity'):
        read(tmp_path, 'mean')
    with pytest.raises(UsageError, match='no undamaged checkpoint'):
        read(tmp_path / 'elsewhere')


def test_unwritable_directory_is_an_error(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(UsageError, match='Not a directory'):
        Checkpoints(tmp_path / 'file' / 'checkpoints')


def test_a_full_disk_is_an_error_and_earlier_steps_stay(tmp_path):
    done = run("""
import os, resource, sys
import jax, jax.numpy as jnp
from lib.checkpoint import Checkpoints
from lib.experiment import UsageError
checkpoints = Checkpoints(sys.argv[1])
noise = jax.random.normal(jax.random.key(0), (2**18,))
checkpoints.save(1, {'params': {'fc8': noise}}, {})
checkpoints.wait()
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, unlimited[1]))
checkpoints.save(2, {'params': {'fc8': noise}}, {})
try:
    checkpoints.wait()
except UsageError as error:
    print(error)
    print(os.listdir(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
checkpoints.save(3, {'params': {'fc8': -noise}}, {})
checkpoints.wait()
""", tmp_path)
    message, left = done.stdout.splitlines()
    assert re.fullmatch(r'The checkpoint of step 2 could not be written to .* \(File too large\): .*', message)
    assert left == "['00000001']"
    assert 'Traceback' not in done.stderr
    assert folders(tmp_path) == ['00000001', '00000003']
