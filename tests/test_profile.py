"""Where the time of a program goes."""
import jax
import jax.numpy as jnp
import pytest

from lib import profile
from lib.profile import Share

PROGRAM = """HloModule jit_loss
%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %tanh.1 = f32[8]{0} tanh(%p), metadata={op_name="jit(loss)/jvp(conv1)/tanh"}
}
ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %tanh_fusion = f32[8]{0} fusion(%x), kind=kLoop, calls=%fused
  %ynn_fusion.3 = f32[8]{0} custom-call(%x), metadata={op_name="jit(loss)/jvp(conv1)/conv_general_dilated"}
  %dot.2 = f32[8]{0} dot(%x, %x), metadata={op_name="jit(loss)/transpose(jvp(fc6))/dot_general"}
  %add.1 = f32[8]{0} add(%x, %x), metadata={op_name="jit(loss)/jvp()/max"}
  ROOT %add.2 = f32[8]{0} add(%x, %x), metadata={op_name="jit(loss)/transpose(jvp())/select_n"}
}
"""


def test_time_belongs_to_layers_and_passes():
    seconds = {'tanh_fusion': 1.0, 'ynn_fusion.3': 4.0, 'dot.2': 16.0, 'add.1': 0.5, 'add.2': 0.25, 'elsewhere': 0.125}
    assert profile.by_layer(seconds, PROGRAM, ['conv1', 'fc6']) == [
        Share('fc6', True, 16.0, 0.0), Share('conv1', False, 4.0, 1.0), Share(None, False, 0.0, 0.625),
        Share(None, True, 0.0, 0.25)]


def test_a_program_that_runs():
    def loss(x):
        with jax.named_scope('fc6'):
            x = jnp.tanh(x @ x)
        with jax.named_scope('fc7'):
            return (x @ x).sum()

    x = jnp.ones((256, 256))
    program = jax.jit(jax.grad(loss)).lower(x).compile()
    seconds = profile.spans(lambda: jax.block_until_ready(program(x)), 2)
    shares = {(share.layer, share.backward): share for share in profile.by_layer(seconds, program.as_text(),
                                                                                 ['fc6', 'fc7'])}
    assert {('fc6', False), ('fc6', True)} <= shares.keys()
    assert shares['fc6', False].products > 0 and shares['fc6', True].products > 0
    assert sum(share.products + share.others for share in shares.values()) == pytest.approx(sum(seconds.values()))
