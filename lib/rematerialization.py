"""Less memory for more arithmetic: of a forward pass only what lies between the stages of a network is kept, and the
backward pass computes each stage again when it comes to it.

What is saved is at most what all stages but the largest need. XLA:CPU sees that the same is computed twice, and keeps
it all the same.
"""
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core

STAGES = tuple(f'pool{number}' for number in range(1, 6))   # the layers that end them


def named(name: str, x: jax.Array) -> jax.Array:
    """The tap of a network of which `by_stages` can find the stages."""
    return checkpoint_name(x, name)


def by_stages(function: Callable) -> Callable:
    """The same function of arrays, in whose gradient every stage of the network in it is computed twice. A network that
    has no layer of STAGES is one stage, and nothing is gained."""
    def staged(*arguments):
        program, result = jax.make_jaxpr(function, return_shape=True)(*arguments)
        return jax.tree.unflatten(jax.tree.structure(result), _run(program, jax.tree.leaves(arguments)))
    return staged


def _run(program: core.ClosedJaxpr, arguments: Sequence[jax.Array]) -> list[jax.Array]:
    """One checkpoint around all stages would not do: nothing in it says that a stage can wait for the gradient of the
    next, and XLA computes all of them at once."""
    whole = program.jaxpr
    known = dict(zip(whole.constvars, program.consts)) | dict(zip(whole.invars, arguments))
    ends = [number for number, equation in enumerate(whole.eqns, 1)
            if equation.primitive.name == 'name' and equation.params['name'] in STAGES]
    for start, end in itertools.pairwise([0, *ends, len(whole.eqns)]):
        equations, rest = whole.eqns[start:end], whole.eqns[end:]
        made = dict.fromkeys(variable for equation in equations for variable in equation.outvars)
        reads = [variable for variable in _variables(equation.invars for equation in equations) if variable not in made]
        later = _variables([whole.outvars, *(equation.invars for equation in rest)])
        writes = [variable for variable in made if variable in later]
        stage = core.ClosedJaxpr(whole.replace(constvars=[], invars=reads, outvars=writes, eqns=equations), [])
        values = jax.checkpoint(core.jaxpr_as_fun(stage))(*(known[variable] for variable in reads))
        known |= dict(zip(writes, values))
    return [atom.val if isinstance(atom, core.Literal) else known[atom] for atom in whole.outvars]


def _variables(lists: Any) -> dict[core.Var, None]:
    """The variables in lists of variables and constants, each once and in order."""
    return dict.fromkeys(atom for atoms in lists for atom in atoms if not isinstance(atom, core.Literal))
