"""Bad input is refused at the boundary, with what must hold, what came, and the fix.

The library is that of `tests/users.py`, without the type checker: these are the errors that users
meet.
"""

import re
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from tests.users import am
from tests.zoo import spins

Xi = jnp.asarray(spins(0, 3, 6), jnp.float32)
x, key = Xi[0], jr.key(0)
model = am.ClassicalHopfield(Xi)
NAN = x.at[2].set(jnp.nan)
METHODS = {
    "recall": lambda m, x: m.recall(x),
    "async_recall": lambda m, x: m.async_recall(x, nsteps=3),
    "async_update": lambda m, x: m.async_update(x, 0),
    "flip_energies": lambda m, x: m.flip_energies(x),
    "is_fixed_point": lambda m, x: m.is_fixed_point(x),
}
every_method = pytest.mark.parametrize("method", METHODS)


def raises(kind: type[Exception], message: str):
    """The whole message, not a part of it; JAX adds a remark where it hides its own frames."""
    return pytest.raises(kind, match=rf"^{re.escape(message)}(\n-+\nFor simplicity, JAX .*)?$")


def test_the_type_checker_is_off():
    with raises(ValueError, "recall: order: must be one of 'permutation', 'sequential', 'random', "
                            "'colours', 'greedy', 'synchronous'; 3 came."):  # fmt: skip
        model.recall(x, order=3)


# -- patterns that were bits ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [int, np.uint8, jnp.float32, jnp.bfloat16])
def test_patterns_of_bits_are_told_once(dtype):
    bits = jnp.asarray(Xi > 0, dtype)
    for make in (am.ClassicalHopfield, lambda Xi: am.ExponentialDenseAM(Xi, beta=2.0)):
        with pytest.warns(UserWarning, match=r"Xi: .* 0 and 1 alone came.*2 \* Xi - 1") as caught:
            memory = make(bits)
        assert [warning.filename for warning in caught] == [__file__]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            eqx.tree_at(lambda m: m.Xi, memory, memory.Xi)  # no construction, no warning


def test_patterns_that_may_be_meant_are_not_told():
    bits = np.asarray(Xi > 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for patterns in (bits, Xi, 0 * Xi, 0 * Xi + 1, bits - 0.5, 2 * bits):
            am.ClassicalHopfield(patterns)
        jax.jit(lambda Xi: am.ClassicalHopfield(Xi).energy(x))(jnp.asarray(bits, float))
        jax.vmap(lambda Xi: am.ClassicalHopfield(Xi).energy(x))(jnp.asarray(bits, float)[None])
        am.BipolarIsing(jnp.eye(3))


@pytest.mark.parametrize("rule", ["hebb", "storkey", "pseudo_inverse"])
def test_rules_refuse_bits(rule):
    rule = getattr(am.learning.rules, rule)
    with pytest.raises(ValueError, match=r"must hold only -1 and \+1.*2\*x - 1"):
        rule(np.asarray(Xi > 0, int))
    rule(np.asarray(Xi > 0))  # bools are spins


# -- the energy -------------------------------------------------------------------------------


def test_a_missing_energy():
    class Empty(am.BinaryAM):
        pass

    message = r"^Can't instantiate abstract class {} .*abstract method '?energy'?$"
    for cls, args in ((Empty, (Xi,)), (am.BinaryAM, (Xi,)), (am.AbstractBinaryAM, ())):
        with pytest.raises(TypeError, match=message.format(cls.__name__)):
            cls(*args)


@every_method
@pytest.mark.parametrize(
    ("energy", "came"),
    [
        (lambda self, x: self.Xi @ x, "float32[3]"),
        (lambda self, x: x, "float32[6]"),
        (lambda self, x: None, "nothing"),
        (lambda self, x: (jnp.sum(x), jnp.sum(x)), "float32[], float32[]"),
        (lambda self, x: jnp.sum(x > 0), "int32[]"),
        (lambda self, x: jnp.sum(x.astype(jnp.complex64)), "complex64[]"),
    ],
    ids=["overlaps", "state", "none", "pair", "integer", "complex"],
)
def test_an_energy_that_is_no_scalar(method, energy, came):
    bad = type("Bad", (am.BinaryAM,), {"energy": energy})
    message = (
        f"energy: must return one real floating-point scalar; {came} came. "
        "Sum over patterns and units (jnp.sum), and return the sum."
    )
    with raises(ValueError, message):
        METHODS[method](bad(Xi), x)


NUMPY = "NumPy asked for the values of a traced array. Write jnp where it says np."


@every_method
@pytest.mark.parametrize(
    ("energy", "came"),
    [
        (lambda self, x: -jnp.sum(np.dot(self.Xi, x)), NUMPY),
        (lambda self, x: -jnp.sum(np.maximum(self.Xi @ x, 0)), NUMPY),
        (lambda self, x: x[0] if x[0] > 0 else x[1], "`if`, `while`, `and` or `or` asked whether a "
         "traced value is true. Write jnp.where(condition, a, b), or jax.lax.cond."),
        (lambda self, x: float(jnp.sum(x)), "Python asked for the value of a traced number. Leave "
         "out float(), int() and .item(), or write x.astype(dtype)."),
        (lambda self, x: jnp.sum(x[x > 0]), "a traced mask was an index. Write "
         "jnp.where(mask, x, 0)."),
        (lambda self, x: [jnp.sum(x), jnp.sum(-x)][x.astype(int)[0]],
         "Python asked for the value of a traced integer. Index with jnp.take(a, i), and keep "
         "shapes free of values."),
    ],
    ids=["product", "maximum", "if", "float", "mask", "integer"],
)  # fmt: skip
def test_an_energy_that_jax_cannot_trace(method, energy, came):
    bad = type("Bad", (am.BinaryAM,), {"energy": energy})
    with raises(TypeError, f"energy: must be a function that JAX can trace; {came}"):
        METHODS[method](bad(Xi), x)


# -- states -----------------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize(
    ("state", "hint"),
    [
        (Xi, "A batch goes through jax.vmap, one example per call."),
        (x[:4], "Reshape it to (6,)."),
        (x.reshape(2, 3), "Reshape it to (6,)."),
        (x[None, None], "Reshape it to (6,)."),
        (x[:0], "The state is empty."),
    ],
    ids=["batch", "short", "folded", "deep", "empty"],
)
def test_a_state_of_another_shape(method, state, hint):
    shape = tuple(state.shape)
    with raises(ValueError, f"{method}: the state must have shape (6,); {shape} came. {hint}"):
        METHODS[method](model, state)


def test_a_batch_of_images():
    images = am.ClassicalHopfield(Xi.reshape(3, 2, 3))
    message = "recall: the state must have shape (2, 3); (3, 2, 3) came. A batch goes through "
    with raises(ValueError, message + "jax.vmap, one example per call."):
        images.recall(images.Xi)
    with raises(ValueError, message + "jax.vmap, one example per call."):
        jax.vmap(images.recall)(images.Xi[None])
    with raises(ValueError, "recall: the state must have shape (2, 3); (6,) came. "
                            "Reshape it to (2, 3)."):  # fmt: skip
        images.recall(x)


def test_a_state_of_an_ising_model():
    ising = am.BipolarIsing(jnp.eye(6))
    message = "recall: the state must have shape (6,); (3, 6) came. A batch goes through jax.vmap"
    with raises(ValueError, message + ", one example per call."):
        ising.recall(Xi)


def test_a_model_that_does_not_know_its_state():
    class Free(am.AbstractBinaryAM):
        def energy(self, x):
            return -jnp.sum(x)

    with raises(ValueError, "explain: this model does not know its state; pass a state x0."):
        Free().explain()
    with raises(ValueError, "recall: the state must have at least one unit; (0,) came."):
        Free().recall(jnp.zeros(0))


@pytest.mark.parametrize(
    "J", [1.0, 2, np.int32(1), np.ones(5, int), np.ones((5, 7)), np.ones((2, 4, 6)), "J", None],
    ids=["float", "integer", "scalar", "per edge", "lattice", "directions", "text", "none"],
)  # fmt: skip
def test_a_field_called_J_says_nothing_about_the_state(J):
    """Only `BipolarIsing` knows that `J` has a row per unit."""

    class Chain(am.AbstractBinaryAM):
        J: object

        def energy(self, x):
            pull = 1.0 if isinstance(self.J, str | None) else jnp.mean(jnp.asarray(self.J, float))
            return -pull * jnp.sum(x[1:] * x[:-1])

    for shape in ((6,), (4, 6)):
        end = Chain(J).recall(jnp.asarray(spins(3, *shape), jnp.float32))
        assert end.x.shape == shape
        assert end.x.dtype == jnp.float32
        assert end.converged


def test_a_model_that_says_what_its_state_is(capsys):
    class Grid(am.AbstractBinaryAM):
        side: int
        state_struct = property(lambda self: jax.ShapeDtypeStruct((self.side,) * 2, jnp.float16))

        def energy(self, x):
            return -jnp.sum(x[1:] * x[:-1])

    Grid(3).explain()
    assert "per flip" in capsys.readouterr().out
    assert Grid(3).recall(np.ones((3, 3), int)).x.dtype == jnp.float16
    message = "recall: the state must have shape (3, 3); (2, 3, 3) came. A batch goes through "
    with raises(ValueError, message + "jax.vmap, one example per call."):
        Grid(3).recall(np.ones((2, 3, 3)))

    class Pair(am.AbstractBinaryAM):
        state_struct = jax.ShapeDtypeStruct((2,), jnp.float32)

        def energy(self, x):
            return -x[0] * x[1]

    with raises(ValueError, "recall: the state must have shape (2,); (3,) came. Reshape it to "
                            "(2,)."):  # fmt: skip
        Pair().recall(np.ones(3))
    assert am.BipolarIsing(jnp.eye(4)).state_struct.shape == (4,)
    assert model.state_struct == jax.ShapeDtypeStruct((6,), jnp.float32)
    assert am.AbstractBinaryAM.state_struct is None


NO_SPINS = (
    ": a state must hold only -1 and +1; other values came. Bits 0/1 become spins by 2*x - 1, "
    "grey images by amlib.data.binarize."
)


@every_method
@pytest.mark.parametrize(
    "state",
    [jnp.zeros(6), NAN, 0.5 * x, x * jnp.inf, np.array([0, 1, 1, 0, 1, 0])],
    ids=["zeros", "nan", "half", "inf", "bits"],
)
def test_a_state_of_other_values(method, state):
    with raises(ValueError, method + NO_SPINS):
        METHODS[method](model, state)


@pytest.mark.parametrize("method", ["recall", "async_recall", "flip_energies", "is_fixed_point"])
@pytest.mark.parametrize("wrap", [eqx.filter_jit, jax.vmap], ids=["jit", "vmap"])
def test_traced_states_of_other_values(method, wrap):
    """Values that are not known yet raise when the program runs."""
    run = wrap(lambda x: jax.tree.leaves(METHODS[method](model, x))[0])
    good, bad = (x, NAN) if wrap is eqx.filter_jit else (Xi, Xi.at[1].set(NAN))
    run(good)
    with pytest.raises(eqx.EquinoxRuntimeError, match=re.escape(method + NO_SPINS)):
        jax.block_until_ready(run(bad))


def test_async_update_trusts_traced_states():
    """It is called once per step in loops: a check at run time would cost more than the step."""
    after, _ = jax.jit(lambda x: model.async_update(x, 0))(2 * x)
    np.testing.assert_array_equal(jnp.abs(after), 2)


@every_method
@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("abc", "{}: x: must be an array of numbers; str came."),
        (None, "{}: x: must be an array of numbers; NoneType came."),
        ([[1], [1, 2]], "{}: x: must be an array of numbers; list came."),
        (
            np.asarray(x, object),
            "{}: x: must be an array of numbers; ndarray of dtype object came.",
        ),
        (x.astype(jnp.complex64), "{}: x: must hold real numbers; dtype complex64 came."),
    ],
    ids=["string", "none", "ragged", "objects", "complex"],
)
def test_a_state_that_is_no_array_of_numbers(method, state, message):
    with raises(TypeError, message.format(method)):
        METHODS[method](model, state)


@pytest.mark.parametrize(
    "state",
    [np.asarray(x, int), np.asarray(x) > 0, np.asarray(x).tolist(), np.asarray(x, np.float64)],
    ids=["integers", "bools", "list", "float64"],
)
def test_states_that_are_converted(state):
    np.testing.assert_array_equal(model.recall(state).x, model.recall(x).x)
    assert model.recall(state).x.dtype == jnp.float32


@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("D", [1, 6])
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32], ids=["half", "single"])
def test_the_smallest_memories(K, D, dtype):
    """One pattern, one bit, half precision: all methods take them, and end on a fixed point."""
    small = am.ClassicalHopfield(Xi[:K, :D].astype(dtype))
    start = np.ones(D, int)
    for order in ("permutation", "greedy", "synchronous"):
        end = small.recall(start, order=order)
        assert end.x.dtype == dtype
        assert end.result in (am.RESULTS.converged, am.RESULTS.cycle)
        assert order == "synchronous" or small.is_fixed_point(end.x)
    assert small.flip_energies(start).shape == (D,)
    assert small.async_recall(start, 4)[1][0].shape == (4, D)


def test_jit_inside_vmap_inside_grad():
    """The derivative of the final energy in the patterns, -sum h x, of a batch."""

    def total(patterns):
        run = jax.jit(lambda q: am.ClassicalHopfield(patterns).recall(q).energy)
        return jnp.sum(jax.vmap(run)(-Xi))

    ends = jax.vmap(model.recall)(-Xi).x
    expected = -sum(jnp.outer(Xi @ x, x) for x in ends)
    np.testing.assert_allclose(jax.grad(total)(Xi), expected, rtol=1e-6)


# -- patterns ---------------------------------------------------------------------------------

NOT_FINITE = (
    ": every value must be finite; NaN or infinity came. Look for a division by zero or an "
    "unloaded image, or clean it with jnp.nan_to_num."
)


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf], ids=str)
def test_patterns_that_are_not_finite(value):
    for kind in (am.ClassicalHopfield, am.ExponentialDenseAM):
        with raises(ValueError, "Xi" + NOT_FINITE):
            kind(Xi.at[1, 2].set(value))


@pytest.mark.parametrize("shape", [(0, 6), (3, 0), (6,), ()], ids=str)
def test_patterns_of_a_wrong_shape(shape):
    message = f"Xi: must have shape (K, D) with K and D at least 1; {shape} came. "
    with raises(ValueError, message + "A single pattern is Xi[None]."):
        am.ClassicalHopfield(jnp.ones(shape))


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ("abc", "Xi: must be an array of numbers; str came."),
        (None, "Xi: must be an array of numbers; NoneType came."),
        ([[1, -1], [1]], "Xi: must be an array of numbers; list came."),
        (Xi.astype(jnp.complex64), "Xi: must hold real numbers; dtype complex64 came."),
    ],
    ids=["string", "none", "ragged", "complex"],
)
def test_patterns_that_are_no_numbers(patterns, message):
    with raises(TypeError, message):
        am.ClassicalHopfield(patterns)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (np.array([[True, False], [False, False]]), [[1, -1], [-1, -1]]),
        (np.array([[1, -1], [-1, 1]]), [[1, -1], [-1, 1]]),
        (np.array([[1, 0], [0, 255]], np.uint8), [[1, 0], [0, 255]]),
        ([[1, -1], [-1, -1]], [[1, -1], [-1, -1]]),
        ([[0.5, 0.0], [0.0, 1.0]], [[0.5, 0], [0, 1]]),
    ],
    ids=["bools", "integers", "bytes", "lists", "reals"],
)
def test_the_conversion_of_patterns(patterns, expected):
    """Bools become spins; every number keeps its value, 0/1 too."""
    with warnings.catch_warnings(action="error"):
        converted = am.ClassicalHopfield(patterns).Xi
    assert converted.dtype == jnp.float32
    np.testing.assert_array_equal(converted, expected)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_float_patterns_keep_their_dtype(dtype):
    assert am.ClassicalHopfield(Xi.astype(dtype)).Xi.dtype == dtype


def test_traced_patterns_that_are_not_finite_are_a_result():
    """A training step must not stop: recall says how it ended."""

    @jax.jit
    def run(Xi):
        return am.ClassicalHopfield(Xi).recall(x).result

    assert run(Xi) == am.RESULTS.converged
    assert run(Xi.at[0, 0].set(jnp.nan)) == am.RESULTS.nonfinite


# -- numbers of steps, orders, temperatures ---------------------------------------------------


def test_negative_numbers_of_steps():
    with raises(ValueError, "async_recall: nsteps: must be at least 0; -1 came."):
        model.async_recall(x, nsteps=-1)
    cure = "came. Of steps take fewer, and go on from where they end."
    with raises(ValueError, f"async_recall: nsteps: must be at most 2147483647; {10**12} {cure}"):
        model.async_recall(x, nsteps=10**12)
    most = (2**31 - 1) // x.size
    with raises(ValueError, f"recall: max_steps: must be at most {most}; {2**30} {cure}"):
        model.recall(x, max_sweeps=2**30)
    with raises(ValueError, "recall: max_sweeps: must be at least 1; 0 came."):
        model.recall(x, max_sweeps=0)
    with raises(ValueError, "recall: record: must be at least 0; -2 came."):
        model.recall(x, record=-2)


@pytest.mark.parametrize("number", [2.5, 3.0, True, "3", None])
def test_numbers_of_steps_that_are_no_integers(number):
    with raises(TypeError, f"async_recall: nsteps: must be an integer; {number!r} came."):
        model.async_recall(x, nsteps=number)
    with raises(TypeError, f"recall: max_sweeps: must be an integer; {number!r} came."):
        model.recall(x, max_sweeps=number)


@pytest.mark.parametrize("number", [2**31, 10**12])
def test_numbers_of_steps_that_no_counter_holds(number):
    cure = "Of steps take fewer, and go on from where they end."
    message = f"must be at most 2147483647; {number} came. {cure}"
    for name in ("max_sweeps", "record"):
        with raises(ValueError, f"recall: {name}: {message}"):
            model.recall(x, **{name: number})


KEYS = {
    "integer": (0, "int came. Write jax.random.key(0)."),
    "another": (7, "int came. Write jax.random.key(7)."),
    "text": ("a", "str came. Write jax.random.key(0)."),
    "several": (jr.split(key, 3), "key<fry>[3] came. Several keys go through jax.vmap."),
    "old": (np.arange(2, dtype=np.int32), "int32[2] came. Several keys go through jax.vmap."),
}


@pytest.mark.parametrize("name", KEYS)
def test_keys_that_are_none(name):
    bad, came = KEYS[name]
    for call, where in (
        (lambda: model.recall(x, key=bad), "recall: key"),
        (lambda: model.recall(x, key=bad, beta=1.0), "recall: key"),
        (lambda: model.async_recall(x, 5, bad), "async_recall: key"),
        (lambda: am.data.corrupt.flip(bad, x, 0.1), "flip: key"),
        (lambda: am.data.corrupt.flip_exactly(bad, x, 1), "flip_exactly: key"),
        (lambda: am.data.corrupt.mask(x, 0.5, "random", key=bad), "mask: key"),
    ):
        with raises(TypeError, f"{where}: must be one random key; {came}"):
            call()


def test_keys_of_both_styles_may_be_traced():
    for keys in (jr.split(key, 2), jax.vmap(jr.PRNGKey)(jnp.arange(2))):
        assert jax.vmap(lambda k: model.recall(x, key=k).x)(keys).shape == (2, 6)


def test_a_traced_number_of_steps():
    with pytest.raises(TypeError, match=r"^async_recall: nsteps: must be an integer; JitTracer"):
        jax.jit(lambda n: model.async_recall(x, nsteps=n))(3)


@pytest.mark.parametrize(
    ("order", "hint"),
    [
        ("permutations", " Did you mean 'permutation'?"),
        ("Greedy", " Did you mean 'greedy'?"),
        ("?", ""),
    ],
)
def test_an_unknown_order(order, hint):
    options = "'permutation', 'sequential', 'random', 'colours', 'greedy', 'synchronous'"
    with raises(ValueError, f"recall: order: must be one of {options}; {order!r} came.{hint}"):
        model.recall(x, order=order)


@pytest.mark.parametrize("beta", [-1.0, jnp.inf, jnp.nan, [1.0, -1.0], [0.0, jnp.nan]])
def test_temperatures_that_are_negative(beta):
    with raises(ValueError, "beta: must be finite and at least 0; another value came."):
        model.recall(x, key=key, beta=jnp.asarray(beta), max_sweeps=2)


@pytest.mark.parametrize("beta", [0, -1.0, jnp.inf, jnp.nan])
def test_temperatures_that_are_not_positive(beta):
    with raises(ValueError, "beta: must be finite and greater than 0; another value came."):
        am.ExponentialDenseAM(Xi, beta)


def test_traced_temperatures_that_are_negative():
    draw = jax.vmap(lambda beta: model.recall(x, key=key, beta=beta, max_sweeps=1).x)
    draw(jnp.array([0.5, 0.0]))
    message = re.escape("beta: must be finite and at least 0; another value came.")
    with pytest.raises(eqx.EquinoxRuntimeError, match=message):
        jax.block_until_ready(draw(jnp.array([0.5, -0.1])))


def test_temperatures_of_another_shape():
    message = "recall: beta must be a scalar, or a schedule of max_steps=5 values, one for each; "
    with raises(ValueError, message + "shape (2,) came. Several temperatures go through jax.vmap."):
        model.recall(x, key=key, beta=jnp.ones(2), max_sweeps=5)
    with raises(ValueError, "beta: must be a scalar; shape (2,) came."):
        am.ExponentialDenseAM(Xi, jnp.ones(2))
    with raises(TypeError, "beta: must be an array of numbers; str came."):
        model.recall(x, key=key, beta="hot")


def test_a_temperature_without_a_key():
    with raises(ValueError, "recall: Glauber draws at random and needs key=jax.random.key(...)."):
        model.recall(x, beta=1.0)


@pytest.mark.parametrize("order", ["greedy", "synchronous"])
def test_a_temperature_with_an_order_that_keeps_no_law(order):
    message = "recall: with beta, order must be one of permutation, sequential, random, colours; "
    with raises(ValueError, f"{message}{order!r} came. It would not sample the Boltzmann law."):
        model.recall(x, key=key, beta=1.0, order=order)


# -- indices ----------------------------------------------------------------------------------


@pytest.mark.parametrize("idx", [6, -1, 100])
def test_a_bit_out_of_range(idx):
    with raises(ValueError, f"async_update: idx must lie in [0, 6); {idx} came."):
        model.async_update(x, idx)


@pytest.mark.parametrize(
    ("idx", "came"),
    [
        (1.0, "1.0"),
        (True, "True"),
        (np.arange(2, dtype=np.int32), "array([0, 1], dtype=int32)"),
        (None, "None"),
        ("a", "'a'"),
    ],
    ids=["float", "bool", "array", "none", "text"],
)
def test_a_bit_that_is_no_integer(idx, came):
    with raises(TypeError, f"async_update: idx must be one integer; {came} came."):
        model.async_update(x, idx)


# -- fields of the models ---------------------------------------------------------------------


def test_powers():
    with raises(ValueError, "PolynomialDenseAM: n: must be at least 1; 0 came."):
        am.PolynomialDenseAM(Xi, 0)
    for n in (2.5, "3", True, None):
        with raises(TypeError, f"PolynomialDenseAM: n must be an integer; {n!r} came."):
            am.PolynomialDenseAM(Xi, n)


@pytest.mark.parametrize("shape", [(2, 3), (3,), (0, 0), (2, 2, 2)], ids=str)
def test_couplings_of_a_wrong_shape(shape):
    with raises(ValueError, f"J: must have shape (D, D) with D at least 1; {shape} came."):
        am.BipolarIsing(jnp.ones(shape))


def test_couplings_that_are_not_symmetric():
    J = jnp.array([[0.0, 1.0], [1.001, 0.0]])
    message = (
        "J: must be symmetric; J and J.T differ. The energy holds only the symmetric part. If "
        "rounding made the difference, pass (J + J.T) / 2. Couplings that lead from one pattern "
        "to the next have no energy, and that would destroy them: iterate x = jnp.sign(J @ x)."
    )
    with raises(ValueError, message):
        am.BipolarIsing(J)
    am.BipolarIsing((J + J.T) / 2)


def test_the_cure_for_couplings_of_a_sequence():
    """What the message says to do follows the sequence; the symmetric part does not."""
    patterns = jnp.asarray(spins(1, 4, 200), jnp.float32)
    J = jnp.roll(patterns, -1, 0).T @ patterns / 200
    np.testing.assert_array_equal(jnp.sign(J @ patterns[0]), patterns[1])
    end = am.BipolarIsing((J + J.T) / 2).recall(patterns[0]).x
    assert abs(jnp.mean(end * patterns[1])) < 0.9


def test_couplings_and_fields_that_are_not_finite():
    with raises(ValueError, "J" + NOT_FINITE):
        am.BipolarIsing(jnp.full((2, 2), jnp.nan))
    with raises(ValueError, "h" + NOT_FINITE):
        am.BipolarIsing(jnp.eye(2), jnp.array([1.0, jnp.inf]))


def test_a_field_that_does_not_fit():
    with raises(ValueError, "h: must have shape (3,) to fit J; (2,) came."):
        am.BipolarIsing(jnp.eye(3), jnp.ones(2))
    with raises(ValueError, "h: must have shape (3,) to fit J; () came."):
        am.BipolarIsing(jnp.eye(3), 1.0)
