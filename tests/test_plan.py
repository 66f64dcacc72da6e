"""What launch.plan says of devices that are not there: memory, exchanges, least times."""
import dataclasses
import functools
import importlib.util
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from launch import cli
from launch import plan as command
from launch.papers import PAPERS
from lib import collectives, hardware, plan, scaling
from lib import mesh as meshes
from lib.collectives import Collective
from lib.experiment import UsageError, change_all
from lib.hardware import Rates, Topology
from lib.plan import Memory, Plan, Work
from lib.task import count
from tests.commands import ROOT
from tests.networks import shapes

ALEXNET = PAPERS['alexnet']
SMALL = change_all(ALEXNET.experiments['paper'], {
    'batch_size': 8, 'data.resize': 72, 'data.image_size': 64, 'model.widths': (8, 16, 16, 16, 16),
    'model.fc_width': 32, 'model.classes': 16})


@pytest.fixture(autouse=True)
def console(monkeypatch):
    monkeypatch.setattr(cli, 'console', cli.Console(highlight=False))      # that writes where pytest looks


@functools.cache
def planned(topology: str, mesh: tuple[int, int], experiment=SMALL, paper='alexnet') -> Plan:
    place = hardware.parse(topology)
    task = PAPERS[paper].build(experiment)
    return plan.make(task, experiment, place, hardware.devices(place), mesh, None)


def shown(capsys, topology, *assignments, paper='alexnet', name='paper', mesh=None):
    command.show(PAPERS[paper], name, assignments, topology, mesh, as_json=False)
    return capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------ collectives

HLO = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%made (p: f32[8]) -> (f32[3], f32[5,5,2,4]) {
  %p = f32[8]{0} parameter(0)
  %bias.1 = f32[3]{0} slice(%p), slice={[0:3]}, metadata={op_name="jit(step)/transpose(jvp(conv1))/reduce_sum"}
  %kernel.1 = f32[5,5,2,4]{3,2,1,0} broadcast(%p), metadata={op_name="jit(step)/transpose(jvp(conv2))/conv"}
  ROOT %both = (f32[3]{0}, f32[5,5,2,4]{3,2,1,0}) tuple(%bias.1, %kernel.1)
}

%all-reduce-scatter.1 (part: f32[4,6]) -> f32[4,3] {
  %part = f32[4,6]{1,0} parameter(0)
  %summed = f32[4,6]{1,0} all-reduce(%part), replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
  ROOT %own = f32[4,3]{1,0} dynamic-slice(%summed), dynamic_slice_sizes={4,3}
}

%condition (state.1: (s32[], f32[16,4])) -> pred[] {
  %state.1 = (s32[], f32[16,4]{1,0}) parameter(0)
  %number = s32[] get-tuple-element(%state.1), index=0
  %end = s32[] constant(6)
  ROOT %less = pred[] compare(%number, %end), direction=LT
}

%body (state.2: (s32[], f32[16,4])) -> (s32[], f32[16,4]) {
  %state.2 = (s32[], f32[16,4]{1,0}) parameter(0)
  %number.2 = s32[] get-tuple-element(%state.2), index=0
  %features = f32[16,4]{1,0} get-tuple-element(%state.2), index=1
  %piece = f32[2,4]{1,0:T(8,128)} dynamic-slice(%features, %number.2), metadata={op_name="jit(step)/while/body/slice"}
  %dot = f32[2,4]{1,0:T(8,128)} fusion(%piece), calls=%add, metadata={op_name="jit(step)/while/body/jvp(fc6)/dot"}
  %halves = bf16[2,4]{1,0} all-reduce(%dot.2), replica_groups=[4,2]<=[8], to_apply=%add, metadata={op_name="jit(step)/while/body/transpose(jvp(fc6))/dot_general"}
  %dot.2 = bf16[2,4]{1,0} convert(%dot)
  ROOT %next = (s32[], f32[16,4]{1,0}) tuple(%number.2, %features)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %labels = s32[4]{0} constant({1, 2, 3, 4})
  %maps = f32[2,4]{1,0} constant(0)
  %fusion.1 = (f32[3]{0}, /*index=1*/f32[5,5,2,4]{3,2,1,0}) fusion(%x), kind=kLoop, calls=%made
  %bias = f32[3]{0} get-tuple-element(%fusion.1), index=0, metadata={op_name="jit(step)/transpose(jvp(fc6))/reduce_sum"}
  %copied = (f32[3]{0}, f32[3]{0}, u32[]) copy-start(%bias)
  %copy = f32[3]{0} copy-done(%copied)
  %kernel = f32[5,5,2,4]{3,2,1,0} get-tuple-element(%fusion.1), index=1
  %together = (f32[3]{0}, /*index=1*/f32[5,5,2,4]{3,2,1,0}) all-reduce(%copy, /*index=1*/%kernel), replica_groups=mesh['a'=2,'b'=4] {'a','b'}, to_apply=%add, metadata={op_name="jit(step)/transpose(jvp(conv1))/reduce_sum"}
  %whole = f32[16,4]{1,0} all-gather(%maps), replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}, metadata={op_name="jit(step)/while/body/slice"}
  %zero = s32[] constant(0)
  %begin = (s32[], f32[16,4]{1,0}) tuple(%zero, %whole)
  %loop = (s32[], f32[16,4]{1,0}) while(%begin), condition=%condition, body=%body
  %wrong = s32[4]{0} all-reduce(%labels), replica_groups=mesh['a'=2,'b'=4] {'a'}, to_apply=%add, metadata={op_name="jit(step)/jvp(fc6)/reduce_sum"}
  %mine = f32[4,3]{1,0} fusion(%maps), kind=kCustom, calls=%all-reduce-scatter.1, metadata={op_name="jit(step)/transpose(jvp(fc6))/dot_general"}
  %alone = f32[8]{0} all-reduce(%x), replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}, to_apply=%add
  %start = (f32[8]{0}, f32[8]{0}) collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}, metadata={op_name="jit(step)/jvp()/softmax"}
  ROOT %shifted = f32[8]{0} collective-permute-done(%start)
}
"""     # noqa: E501


def test_collectives_of_a_program_by_layer_and_pass():
    """Merged ones by who made each array, through copies and inside a fusion, whatever name its results have; what
    arrives without a name by who reads it, in a loop that runs as often as its condition says; sums of which a device
    keeps a part, by who calls them; groups in four notations."""
    assert collectives.read(HLO, ('conv1', 'conv2', 'fc6'), 8) == [
        Collective('all-reduce', 'conv1', True, 12, 8),
        Collective('all-reduce', 'conv2', True, 800, 8),
        Collective('all-gather', 'fc6', False, 256, 8),
        Collective('all-reduce', 'fc6', True, 16, 2, times=6),
        Collective('all-reduce', None, False, 16, 2),
        Collective('reduce-scatter', 'fc6', True, 96, 2),
        Collective('collective-permute', None, False, 32, 2),
    ]


def test_a_loop_of_unknown_length_is_not_counted_once():
    with pytest.raises(NotImplementedError, match='loop does not say how often'):
        collectives.read(HLO.replace('s32[] constant(6)', 's32[] parameter(1)'), ('fc6',), 8)
    known = HLO.replace('body=%body', 'body=%body, backend_config={"known_trip_count":{"n":"3"}}')
    assert collectives.read(known, ('fc6',), 8)[3].times == 3


def test_bytes_that_a_device_of_a_ring_sends():
    """A sum of 800 bytes among 4: three parts of 200 to be added up, three to be told. Gathered: three parts."""
    sent = {kind: Collective(kind, None, False, 800, 4, times=2).sent for kind in collectives.KINDS}
    assert sent == pytest.approx({'all-reduce': 2400, 'all-gather': 1200, 'reduce-scatter': 1200, 'all-to-all': 1200,
                                  'collective-permute': 1600})


def test_collectives_of_a_real_program():
    mesh = meshes.make('data:8')

    def loss(w, x):
        with jax.named_scope('fc1'):
            return jnp.square(x @ w).sum()

    w, x = (jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*spec)))
            for shape, spec in (((6, 5), ()), ((16, 6), ('data',))))
    text = jax.jit(jax.grad(loss)).lower(w, x).compile().as_text()
    assert collectives.read(text, ('fc1',), 8) == [Collective('all-reduce', 'fc1', True, 4 * 6 * 5, 8)]


def test_gradients_are_summed_layer_by_layer():
    made = planned('cpu:4', (4, 1))
    summed = dict.fromkeys(shapes(ALEXNET.build, SMALL), 0)
    for one in made.collectives:
        assert (one.kind, one.devices, one.backward) == ('all-reduce', 4, one.layer is not None)
        if one.layer:
            summed[one.layer] += one.payload
    assert summed == {layer: 4 * count({layer: arrays}) for layer, arrays in shapes(ALEXNET.build, SMALL).items()}


def test_two_devices_exchange_maps_into_the_layers_of_figure_2():
    made = planned('cpu:2', (1, 2))
    into = {'conv3': 8 * 3 * 3 * 16, 'fc6': 8 * 16, 'fc7': 8 * 32, 'fc8': 8 * 32}
    for kind, backward in (('all-gather', False), ('all-reduce', True)):
        found = {one.layer: one.payload for one in made.collectives if one.layer and one.kind == kind}
        assert found == {layer: 4 * values for layer, values in into.items()}
        assert {one.backward for one in made.collectives if one.layer and one.kind == kind} == {backward}


# ------------------------------------------------------------------------------------------------ memory and times

def test_parameters_and_velocity_on_a_device():
    """The arguments of the compiled program are as large as the shapes say: its images are no negative rest."""
    whole = 4 * count(shapes(ALEXNET.build, SMALL))
    for topology, mesh, parts in (('cpu:4', (4, 1), 1), ('cpu:2', (1, 2), 2)):
        memory = planned(topology, mesh).memory
        assert parts * memory.parameters == parts * memory.optimizer == whole
        images = 8 // mesh[0] * (3 * 72 * 72 + 4) + 4 * (3 * 72 * 72 + 3 + 9)
        assert plan._held(ALEXNET.build(SMALL), SMALL, mesh)[1].inputs == images
        assert images <= memory.inputs < images + 100, 'step, rate and key'
        assert memory.temporaries > 0 and memory.peak == sum(memory)


def test_the_work_of_a_step_of_the_published_network():
    """Forward, to the weights and to the inputs, but for conv1's: 2 (3 x 724,406,816 - 55 x 55 x 11 x 11 x 3 x 96) for
    each of 128 images; parameters and velocity read and written, 244 MB each; every output, and the images."""
    made = planned('gpu:h100', (1, 1), ALEXNET.experiments['paper'])
    assert made.work.operations == 128 * 2 * (3 * 724_406_816 - 55 * 55 * 11 * 11 * 3 * 96)
    outputs = (2 * 55 * 55 * 96 + 2 * 27 * 27 * 256 + 27 * 27 * 96 + 13 * 13 * (256 + 384 + 384 + 256) + 6 * 6 * 256
               + 4096 + 4096 + 1000)
    images = 128 * (3 * 256 * 256 + 4) + 4 * (3 * 256 * 256 + 12)
    assert made.work.traffic == 2 * 4 * (2 * 60_965_224 + 128 * outputs) + images
    assert made.collectives == () and made.estimated
    changed = change_all(made.experiment, {'precision': 'bfloat16', 'rematerialize': True})
    half = planned('gpu:h100', (1, 1), changed).work
    assert half.traffic == made.work.traffic - 4 * 128 * outputs
    assert half.operations == made.work.operations + 128 * 2 * 724_406_816


def test_least_times_by_hand():
    rates = Rates(memory=1000, float32=4e6, bfloat16=8e6, bandwidth=2e4, interconnect=1e3, source='a maker')
    made = Plan(Topology('two', 'tpu', 2, rates), (2, 1), change_all(SMALL, {'batch_size': 10, 'epochs': 3}), 101, 50,
                Memory(100, 200, 300, 350, 50), Work(operations=2e6, traffic=1.2e4),
                (Collective('all-reduce', 'fc1', True, 500, 2, times=3),), None, 1.0, 1.0, 1.0)
    assert made.limits == pytest.approx({'compute': 0.5, 'memory': 0.6, 'interconnect': 1.5})
    assert (made.step, made.epoch, made.run) == pytest.approx((1.5, 11 * 1.5, 31 * 1.5))
    assert made.images_per_second == pytest.approx(10 / 1.5)
    half = dataclasses.replace(made, experiment=change_all(made.experiment, {'precision': 'bfloat16'}))
    assert half.limits == pytest.approx({'compute': 0.25, 'memory': 0.6, 'interconnect': 1.5})
    assert made.fits and not dataclasses.replace(made, memory=made.memory._replace(program=51)).fits
    assert dataclasses.replace(made, collectives=()).step == pytest.approx(0.6)


def test_times_and_amounts_in_words():
    seconds = (0, 2e-6, 1.2e-3, 1.5, 100, 150, 7000, 7200, 100_000, 200_000, None)
    assert [command._duration(one) for one in seconds] == [
        '0 µs', '2 µs', '1.2 ms', '1.5 s', '100 s', '2.5 min', '117 min', '2 hours', '27.8 hours', '2.31 days', '']
    assert [command._si(one) for one in (0, 5, 999, 1000, 132_339_535_872, 2.5e15)] == [
        '0 ', '5 ', '999 ', '1 k', '132 G', '2.5 P']


def test_of_a_cpu_no_rate_is_known(capsys):
    made = planned('cpu:2', (1, 2))
    assert (made.limits, made.step, made.images_per_second) == ({}, None, None)
    small = [f'{path}={value}' for path, value in (
        ('batch_size', 8), ('data.resize', 72), ('data.image_size', 64), ('model.widths', '(8,16,16,16,16)'),
        ('model.fc_width', 32), ('model.classes', 16))]
    text = shown(capsys, 'cpu:2', *small)
    assert 'No peak rates are known of a CPU' in text and 'It fits: a device takes' in text
    assert [line.split() for line in text.splitlines() if line.split()[:1] == ['fc7']] == [
        ['fc7', 'backward', 'all-reduce', '2', '2', '4.1', '4.1']]


@pytest.mark.parametrize('paper', PAPERS)
def test_every_paper_on_a_gpu(paper, capsys):
    text = shown(capsys, 'gpu:h100', paper=paper)
    assert 'An estimate: nothing is compiled for a GPU' in text and 'It fits: ' in text and 'the whole recipe' in text


def test_of_a_comparison_the_base_is_planned_and_its_arms_are_named(capsys):
    assert 'To see an arm: --experiment=figure1/ARM, of relu-0.02, ' in shown(capsys, 'gpu:h100', name='figure1')


# --------------------------------------------------------------------------------------------- what does not fit

def test_parts_of_the_batch_are_named_that_fit_and_larger_ones_do_not(capsys):
    text = shown(capsys, 'gpu:k20', paper='vgg')
    assert 'It does not fit: a device takes' in text
    assert text.rstrip().endswith('--mesh=data:1,model:1 --set optimizer.accumulation_steps=8')
    whole = PAPERS['vgg'].experiments['paper']
    fits = {parts: planned('gpu:k20', (1, 1), change_all(whole, {'optimizer.accumulation_steps': parts}), 'vgg').fits
            for parts in (4, 8)}
    assert fits == {4: False, 8: True}


def test_a_mesh_that_fits_is_compiled_and_named(monkeypatch):
    """Its parameters on two devices instead of one leave room; the same images on half as many groups take less."""
    made = planned('cpu:2', (2, 1), change_all(SMALL, {'model.fc_width': 1024}))
    split = planned('cpu:2', (1, 2), change_all(SMALL, {'model.fc_width': 1024}))
    assert split.memory.peak < made.memory.peak
    monkeypatch.setattr(hardware, 'host_memory', lambda: made.memory.peak + split.memory.peak)     # for both devices
    other = next(other for other in plan.alternatives(made, ALEXNET.build(made.experiment), jax.devices()[:2])
                 if other.fits)
    assert not made.fits and (other.mesh, other.experiment) == ((1, 2), made.experiment)
    assert other.memory == split.memory
    assert '--mesh=data:1,model:2' in command._verdict(made, other)
    assert 'No other mesh' in command._verdict(made, None)


# --------------------------------------------------------------------------------------------------------- mistakes

@pytest.mark.parametrize('text', ['v5e', 'v5e:3x3', 'v5p:2x2', 'v9:2x2', 'gpu', 'gpu:h1000', 'gpu:h100:0', 'cpu:0'])
def test_an_unknown_topology_lists_those_that_exist(text):
    with pytest.raises(UsageError, match=r'does not exist here.*v5e: with 1x1.*16x16.*h100.*cpu:COUNT'):
        hardware.parse(text)


def test_every_topology_that_is_listed_exists():
    for kind, slices in hardware.SLICES.items():
        for one in slices:
            assert hardware.parse(f'{kind}:{one}').rates == hardware.TPUS[kind]
    assert hardware.parse('v5e:4x8').count == 32 and hardware.parse('v5p:2x2x4').count == 16
    assert [hardware.parse(f'gpu:{name}:8').count for name in hardware.GPUS] == [8] * len(hardware.GPUS)


def test_without_libtpu_its_requirements_are_named(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(UsageError, match='pip install -r requirements-tpu.txt'):
        hardware.devices(hardware.parse('v5e:2x2'))


@pytest.mark.parametrize('topology, mesh, changes, said', [
    ('cpu:4', (2, 1), {}, '--mesh=data:2,model:1 has 2 devices and --topology=cpu:4 has 4'),
    ('cpu:8', (8, 1), {'batch_size': 12}, '--set batch_size=8, or split feature maps too, as in --mesh=data:4,model:2'),
    ('cpu:4', (4, 1), {'optimizer.accumulation_steps': 4}, 'does not divide a part of batch_size=2'),
    ('cpu:2', (2, 1), {'optimizer.update_batch': 1}, 'does not divide optimizer.update_batch=1'),
    ('cpu:4', (1, 4), {}, 'does not divide the 2 groups'),
])
def test_a_mesh_that_cannot_be_is_refused(topology, mesh, changes, said):
    with pytest.raises(UsageError, match=said):
        planned(topology, mesh, change_all(SMALL, changes))


def test_a_mistake_ends_the_command_with_one_sentence():
    done = subprocess.run([sys.executable, '-m', 'launch.plan', 'alexnet'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and 'Name the devices with --topology.' in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not done.stdout


def test_papers_without_ways_to_share_their_training_name_those_that_have(tmp_path):
    with pytest.raises(UsageError, match='--scaling is for alexnet.'):
        command.scale(PAPERS['vgg'], tmp_path)


# ---------------------------------------------------------------------------------------------------------- scaling

def test_schemes_keep_the_batch_of_a_group_of_devices():
    whole, split, trick, often = ALEXNET.scaling
    ways = [scheme.on(8, ALEXNET.experiments) for scheme in (whole, split, trick, often)]
    assert [(e.batch_size, e.optimizer.fc_batch, mesh) for e, mesh in ways] == [
        (1024, None, (8, 1)), (512, None, (4, 2)), (1024, 1024, (8, 1)), (1024, 128, (8, 1))]
    assert split.on(1, ALEXNET.experiments) is None
    assert trick.measured == {2: '1.95 (from memory)', 4: '3.74 (from memory)', 8: '6.25'}


def test_the_committed_exchanges_are_those_of_the_network():
    """Data parallelism sums the gradient of every parameter, the loss and the number of errors; two devices exchange
    29.6 MiB each way, and one or two numbers an image."""
    results = scaling.read(ROOT / 'reproductions' / 'alexnet' / 'results' / 'scaling')
    points = {(point['scheme'], point['devices']): point for point in results['points']}
    for devices in scaling.DEVICES[1:]:
        summed = 4 * 60_965_224 + 8
        point = points['data parallel', devices]
        assert point['exchanged_bytes'] == {'all-reduce': summed}
        assert point['sent_bytes'] == pytest.approx(2 * (devices - 1) / devices * summed, rel=1e-6)
    assert points['split in two', 2]['exchanged_bytes'] == pytest.approx(
        {'all-gather': 31_064_064, 'all-reduce': 31_064_064}, rel=1e-3)
    header, rows = scaling.table(results, ALEXNET.scaling)
    assert len(rows) == 9 and rows[3][0] == '8' and rows[3][1] == '407.0' and rows[3][-2] == '6.25'
    assert 'One weird trick: more than data parallel from 32 devices on.' in scaling.findings(results, ALEXNET.scaling)


# -------------------------------------------------------------------------------------------------------------- TPU

@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason='compiling for a TPU needs libtpu, which '
                    'requirements-tpu.txt installs')
def test_a_step_is_compiled_for_a_tpu_that_is_not_there():
    done = subprocess.run([sys.executable, '-m', 'launch.plan', 'alexnet', '--experiment=quickstart', '--json',
                           '--topology=v5e:2x2'], cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    parameters = 4 * count(shapes(ALEXNET.build, ALEXNET.experiments['quickstart']))
    assert found['fits'] and not found['estimated'] and found['memory']['parameters'] == parameters
    assert sum(one['payload'] for one in found['collectives'] if one['backward']) == parameters
    assert {one['layer'] for one in found['collectives'] if one['backward']} == set(
        shapes(ALEXNET.build, ALEXNET.experiments['quickstart']))
    assert found['least_seconds']['step'] > 0
