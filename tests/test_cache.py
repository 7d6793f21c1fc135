"""Stored results: what is a new key and what is not, damage, two processes, and no unpickling."""

import functools
import hashlib
import importlib
import importlib.util
import io
import json
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import amlib as am
from amlib import _files
from amlib.cache import _cached, _key as keys, cached
from amlib.descent import flips

ROOT = Path(am.__file__).parents[1]
FACTOR = 2.0


def key_of(fn, *args, **kwargs):
    return keys.key_of(fn, args, kwargs)


def walked(fn, *args):
    """What a function and its arguments add to a key."""
    return keys._hash((fn, args), {}).hex()


def counted(fn=lambda x: x):
    """A function, and the list of its calls."""
    calls = []

    def counter(*args):
        calls.append(args)
        return fn(*args)

    return counter, calls


@pytest.fixture
def plain_keys(monkeypatch):
    """Keys by the arguments alone, so that functions may count their calls, for tests of files."""
    monkeypatch.setattr(
        _cached, "key_of", lambda fn, args, _: hashlib.sha256(repr(args).encode()).hexdigest()
    )


# -- the key ----------------------------------------------------------------------------------


def hebbian(power=2, scale=0.5):
    """The same class, made anew, but for what is said here."""

    class Memory(am.BinaryAM):
        def energy(self, x):
            return -scale * jnp.sum((self.Xi @ x) ** power)

    return Memory


def recall(model, key):
    return model.recall(am.data.corrupt.flip(key, model.Xi[0], 0.2)).x


XI = np.where(np.random.default_rng(0).random((3, 16)) < 0.5, -1.0, 1.0).astype(np.float32)


def with_source(code, name="f"):
    namespace = {"__name__": "__main__", "jnp": jnp}
    exec(code, namespace)
    return namespace[name]


def outer(array):
    return lambda x: x + array


def with_rule(k):
    """A function whose derivative is `k`, whatever it is."""
    fn = jax.custom_jvp(jnp.sin)
    fn.defjvp(lambda primals, tangents: (fn(*primals), k * tangents[0]))
    return fn


class Scaled:
    """A function with a factor, which has the name of the function."""

    def __init__(self, fn, k):
        functools.update_wrapper(self, fn)
        self.k = k

    def __call__(self, x):
        return self.k * self.__wrapped__(x)  # pyright: ignore[reportAttributeAccessIssue]


CHANGES = {
    "a changed energy": (lambda k: (recall, hebbian(k + 1)(XI), jr.key(0))),
    "a changed constant": (lambda k: (recall, hebbian(scale=k)(XI), jr.key(0))),
    "a changed seed": (lambda k: (recall, hebbian()(XI), jr.key(k))),
    "an old-style seed": (lambda k: (recall, hebbian()(XI), jr.PRNGKey(k))),
    "changed patterns": (lambda k: (recall, hebbian()(k * XI), jr.key(0))),
    "a closed-over array": (lambda k: (outer(jnp.array([k, 0])), 1)),
    "a closed-over NumPy array": (lambda k: (outer(np.array([k, 0])), 1)),
    "a closed-over function": (lambda k: (outer(lambda: k), 1)),
    "a default": (lambda k: (with_source(f"def f(x=({k}, 2)): return x"),)),
    "a keyword default": (lambda k: (with_source(f"def f(*, x={k}): return x"),)),
    "a constant": (lambda k: (with_source(f"def f(x): return {k} * x"),)),
    "an operator": (lambda k: (with_source(f"def f(x): return x {'+-*'[k]} x"),)),
    "another attribute": (
        lambda k: (with_source(f"def f(x): return jnp.{['', 'sin', 'cos'][k]}(x)"),)
    ),
    "an inner function": (lambda k: (with_source(f"def f(x): return [y + {k} for y in x]"),)),
    "a handler": (
        lambda k: (
            with_source(f"def f():\n  try: g()\n  except {['', 'OSError', 'KeyError'][k]}: 1"),
        )
    ),
    "a global": (lambda k: (with_source(f"C = {k}\ndef f(x): return C * x"),)),
    "a global function": (
        lambda k: (with_source(f"def g(x): return {k}\ndef f(x): return g(x) if x else f(x)"),)
    ),
    "a method of a base": (
        lambda k: (
            with_source(
                f"class A:\n def g(self): return {k}\nclass B(A): pass\ndef f(x): return B().g()"
            ),
        )
    ),
    "a property": (
        lambda k: (with_source(f"class A:\n @property\n def f(self): return {k}\na = A()", "a"),)
    ),
    "the state of an object": (
        lambda k: (with_source(f"class A:\n def __init__(self): self.k = {k}\na = A()", "a"),)
    ),
    "jit": (lambda k: (jax.jit(outer(k)), 1)),
    "filter_jit": (lambda k: (eqx.filter_jit(outer(k)), 1)),
    "vmap": (lambda k: (jax.vmap(outer(k)), 1)),
    "vmap's axes": (lambda k: (jax.vmap(outer(0), in_axes=k), 1)),
    "grad": (lambda k: (jax.grad(outer(float(k))), 1)),
    "partial": (lambda k: (functools.partial(max, k), 1)),
    "a bound method": (lambda k: (hebbian()(k * XI).energy, XI[0])),
    "a custom derivative": (lambda k: (jax.custom_jvp(outer(k)), 1)),
    "the rule of a custom derivative": (lambda k: (with_rule(k), 1)),
    "the state of an object that wraps": (lambda k: (Scaled(jnp.sin, k), 1)),
    "a cached property": (
        lambda k: (
            with_source(
                "import functools\n"
                f"class A:\n @functools.cached_property\n def f(self): return {k}\na = A()",
                "a",
            ),
        )
    ),
    "keyword arguments": (lambda k: (max, {"key": k})),
    "a set": (lambda k: (max, {1, "a", k + 5})),
    "dtype": (lambda k: (max, jnp.zeros(2, ["", "float32", "bfloat16"][k]))),
    "NumPy or JAX": (lambda k: (max, [None, np, jnp][k].zeros(2, "float32"))),
    "shape": (lambda k: (max, np.zeros((k, 2 // k)))),
    "the type of a number": (lambda k: (max, [None, 1, 1.0][k])),
    "number or text": (lambda k: (max, [None, 1, "1"][k])),
    "number or bool": (lambda k: (max, [None, 1, True][k])),
    "zeros": (lambda k: (max, [None, 0.0, -0.0][k])),
    "grouping": (lambda k: (max, [None, ((1, 2), 3), (1, (2, 3))][k])),
    "list or tuple": (lambda k: (max, [None, (1,), [1]][k])),
    "an array of objects": (lambda k: (max, np.array([k, "a"], object))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_has_a_new_key(change):
    make = CHANGES[change]
    one = walked(*make(1))
    assert one == walked(*make(1))
    assert one != walked(*make(2))


@pytest.mark.parametrize("wrap", [jax.jit, eqx.filter_jit, functools.cache])
def test_a_call_changes_no_key(wrap):
    """What functions keep of their calls, as what they compiled, is not in it."""
    fn = wrap(outer(2))
    before = walked(fn)
    fn(1.0)
    assert walked(fn) == before


def test_arrays_that_a_recall_looked_at_change_no_key():
    """Also when they are gone: a key is what is computed, not what a process has seen."""
    before = walked(outer(2))
    memory = am.ClassicalHopfield(jnp.ones((2, 300)))
    memory.recall(jnp.ones(300))
    assert walked(outer(2)) == before
    del memory
    assert walked(outer(2)) == before


def test_arguments_by_name_count():
    assert key_of(recall, a=1) != key_of(recall, b=1) != key_of(recall, 1)


def test_a_global_that_is_set_anew_counts(monkeypatch):
    def scaled(x):
        return FACTOR * x

    before = key_of(scaled, 1)
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert key_of(scaled, 1) != before


def test_helpers_in_files_count(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "my_helpers_of_a_test.py"
    found = []
    for k in (1, 1, 2):
        file.write_text(f"import numpy\ndef g(x): return {k} * x\n")
        sys.modules.pop(file.stem, None)
        importlib.invalidate_caches()
        importlib.util.cache_from_source(str(file))
        sys.dont_write_bytecode, old = True, sys.dont_write_bytecode
        module = importlib.import_module(file.stem)
        sys.dont_write_bytecode = old
        found.append(key_of(eval("lambda x: helpers.g(x)", {"helpers": module}), 1))
    assert found[0] == found[1] != found[2]


def test_code_of_amlib_counts(monkeypatch):
    """Also when it was changed in memory, as autoreload does in a notebook."""
    args = recall, hebbian()(XI), jr.key(0)
    before = key_of(*args)
    with monkeypatch.context() as patch:
        patch.setattr(flips, "visit", lambda *_: None)
        assert key_of(*args) != before
    assert key_of(*args) == before


def test_versions_count(monkeypatch):
    found = []
    for changed in (None, "jax", "jaxlib", "equinox", "numpy"):
        monkeypatch.setattr(keys, "_version", lambda name, new=changed: f"{name} {name == new}")
        found.append(key_of(max, 1))
    assert len(set(found)) == 5


def test_precision_counts(x64):
    inside = key_of(recall, 1)
    with jax.enable_x64(False):
        assert key_of(recall, 1) != inside


def test_the_key_is_the_same_in_another_process():
    code = (
        "import amlib as am, jax, jax.numpy as jnp\n"
        "from amlib.cache import _key\n"
        "class CHN(am.BinaryAM):\n"
        "    def energy(self, x): return -0.5 * jnp.sum((self.Xi @ x) ** 2)\n"
        "def f(model, names): return model, {'a', 'b'}, am.analysis.separation\n"
        "print(_key.key_of(f, (CHN(jnp.eye(3)), {'a', 'b', 'c'}), {}))\n"
    )
    command = [sys.executable, "-c", code]
    runs = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        )
        for seed in "12"
    ]
    lines = [line for run in runs for line in run.communicate()[0].split()]
    assert len(lines) == 2
    assert len(set(lines)) == 1


def test_what_has_no_hash_is_refused(tmp_path):
    lock = threading.Lock()
    with pytest.raises(TypeError, match=r"must have a hash; _thread.lock has none.*Make it inside"):
        cached(tmp_path, "x")(lambda: lock)()


def test_a_seed_is_not_answered_with_the_result_of_another(tmp_path, capsys):
    """All together: a recall, kept, and made anew where the seed or the energy differs."""

    def f(model, seed):
        print("ran")
        return model.energy(am.data.corrupt.flip(jr.key(seed), model.Xi[0], 0.3))

    keep = cached(tmp_path, "all")(f)
    two, four = hebbian(2)(XI), hebbian(4)(XI)
    found = [float(keep(m, s)) for m, s in ((two, 0), (two, 1), (four, 0), (two, 0), (four, 0))]
    assert capsys.readouterr().out.count("ran") == 3
    assert found[:3] == [float(f(m, s)) for m, s in ((two, 0), (two, 1), (four, 0))]
    assert found[3:] == [found[0], found[2]]


# -- results ----------------------------------------------------------------------------------


class Pair(NamedTuple):
    a: object
    b: object


RESULTS = {
    "none": None,
    "numbers": [1, -2.5, float("inf"), True, "text", 10**30],
    "nan": float("nan"),
    "dict": {("b", 1): 1, 3: None},
    "numpy": {"a": np.arange(3, dtype=np.int8), "b": np.float64(2.5), "c": np.array(["x", "yz"])},
    "jax": (jnp.ones((2, 0)), jnp.array(3), jnp.array([True])),
    "half": (jnp.array([1.5, 2], jnp.bfloat16), jnp.array([1.5], jnp.float16)),
    "nested": Pair({"a": [Pair(1, (2,))]}, jnp.arange(2)),
    "enumeration": (am.RESULTS, am.RESULTS.cycle),
    "model": am.ExponentialDenseAM(XI, 0.5),
}


def equal(a, b):
    if isinstance(a, float):
        return type(b) is type(a) and (a == b or a != a != b)
    if isinstance(a, dict):
        return list(a) == list(b) and equal(list(a.values()), list(b.values()))
    if isinstance(a, np.ndarray) and a.dtype.kind == "U":
        return a.tolist() == b.tolist()
    if isinstance(a, list | tuple):
        return type(a) is type(b) and all(map(equal, a, b))
    return bool(eqx.tree_equal(a, b, typematch=True))


@pytest.mark.parametrize("name", RESULTS)
def test_results_come_back(name, tmp_path, plain_keys):
    fn, calls = counted(lambda _: RESULTS[name])
    keep = cached(tmp_path / "new" / "folder", name)(fn)
    first, second = keep(0), keep(0)
    assert len(calls) == 1
    assert equal(RESULTS[name], first)
    assert equal(first, second)
    assert [p.name for p in (tmp_path / "new" / "folder").iterdir()] != []


def test_recalls_come_back(tmp_path, plain_keys):
    model = am.ClassicalHopfield(XI)
    fn, calls = counted(lambda x: jax.vmap(model.recall)(x))
    keep = cached(tmp_path, "recall")(fn)
    keep(XI)
    end = keep(XI)
    assert len(calls) == 1
    assert type(end) is am.Recall
    assert end.converged.all()
    np.testing.assert_array_equal(end.trajectory.frames[:, -1], end.x)
    np.testing.assert_array_equal(end.x, jax.vmap(model.recall)(XI).x)


def test_keys_come_back(tmp_path, plain_keys):
    fn, _ = counted(lambda _: jr.split(jr.key(3), 2))
    keep = cached(tmp_path, "keys")(fn)
    keep(0)
    np.testing.assert_array_equal(jr.normal(keep(0)[1]), jr.normal(jr.split(jr.key(3), 2)[1]))


def test_other_arguments_are_computed_and_kept_beside(tmp_path, plain_keys):
    fn, calls = counted(lambda x: 2 * x)
    keep = cached(str(tmp_path), "double")(fn)
    assert [keep(x) for x in (1, 2, 1, 2)] == [2, 4, 2, 4]
    assert calls == [(1,), (2,)]
    assert len(list(tmp_path.glob("double-*.am"))) == 2


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (object(), r"a result must be made of arrays.*builtins.object came.*not kept"),
        (hebbian()(XI), r"can be found by their names; .*Memory cannot.*not kept"),
        (np.array([1, "a"], object), r"no NumPy array of Python objects.*not kept"),
    ],
)
def test_a_result_that_cannot_be_kept_is_returned(result, message, tmp_path, plain_keys):
    fn, calls = counted(lambda _: result)
    keep = cached(tmp_path, "x")(fn)
    for _ in range(2):
        with pytest.warns(UserWarning, match=message):
            assert keep(0) is result
    assert len(calls) == 2


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    keep = cached(tmp_path / "file", "x")(lambda: 5)
    with pytest.warns(UserWarning, match="cannot be (read|written)"):
        assert keep() == 5


def test_off(tmp_path, monkeypatch, plain_keys):
    fn, calls = counted()
    keep = cached(tmp_path, "x")(fn)
    for value in ("0", "false", " OFF "):
        monkeypatch.setenv("AMLIB_CACHE", value)
        assert keep(3) == 3
    assert len(calls) == 3
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("AMLIB_CACHE", "1")
    keep(3)
    assert list(tmp_path.iterdir())


def test_under_transformations_the_function_is_called(tmp_path):
    keep = cached(tmp_path, "x")(jnp.sin)
    np.testing.assert_allclose(jax.jit(jax.grad(keep))(0.0), 1.0)
    np.testing.assert_allclose(jax.vmap(lambda x: cached(tmp_path, "y")(lambda: x)())(XI), XI)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", "a/b", "a b", "../a"])
def test_bad_names_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match="name must be letters, digits"):
        cached(tmp_path, name)


def test_what_is_no_function_is_refused(tmp_path):
    with pytest.raises(
        TypeError, match=r"a function must follow; int came.*cached\(folder, name\)"
    ):
        cached(tmp_path, "x")(3)  # pyright: ignore[reportArgumentType]


def test_the_function_keeps_its_name(tmp_path):
    assert cached(tmp_path, "x")(recall).__name__ == "recall"


# -- damage -----------------------------------------------------------------------------------


KEPT = {"x": np.arange(3), "y": [2.5, Pair(True, jnp.ones(2, jnp.bfloat16)), am.RESULTS.cycle]}


def _whole():
    with tempfile.TemporaryDirectory() as folder:
        _cached.write(Path(folder) / "x.am", "key", KEPT)
        return (Path(folder) / "x.am").read_bytes()


WHOLE = _whole()


@pytest.fixture
def kept(tmp_path, plain_keys):
    """A stored result: the cached function, the list of its calls, and its file."""
    fn, calls = counted(lambda n: {"x": jnp.arange(n), "y": np.ones(3)})
    keep = cached(tmp_path, "x")(fn)
    keep(20)
    (path,) = tmp_path.iterdir()
    return keep, calls, path


def key_in(path):
    return _files.read(path, "cached result").notes["key"]


def test_any_flipped_bit_is_found(kept):
    """Every bit of the header's first 400, and every 11th of the rest."""
    _, _, path = kept
    whole = path.read_bytes()
    key = key_in(path)
    for bit in sorted({*range(400), *range(0, 8 * len(whole), 11)}):
        spoilt = bytearray(whole)
        spoilt[bit // 8] ^= 1 << bit % 8
        path.write_bytes(spoilt)
        with pytest.warns(UserWarning, match="is damaged") as caught:
            assert _cached.read(path, key) is None
        assert len(caught) == 1


def npy(shape, data=b"", descr="'<f4'"):
    """An array in NumPy's format that claims this shape."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def forged(key, tree, arrays=b""):
    """The bytes of a cache file with a right key and checksum, and anything else."""
    notes = f'{{"key": "{key}", "result": {tree}}}'
    header = f'{{"kind": "cached result", "structure": {{}}, "notes": {notes}}}\n'
    rest = header.encode() + arrays
    return f"amlib-file 1 {hashlib.sha256(rest).hexdigest()}\n".encode() + rest


def said(of, *parts):
    return f'{{"class": "{of}", "parts": [{", ".join(parts)}]}}'


A = '{"array": "numpy"}'
FORGED = {
    "a petabyte": lambda key: forged(key, A, npy((2**48,))),
    "more than an address": lambda key: forged(key, A, npy((2**80,))),
    "a negative size": lambda key: forged(key, A, npy((-1,), b"1234")),
    "a wide dtype": lambda key: forged(key, A, npy((1,), descr="'|V999999999999'")),
    "deep nesting": lambda key: forged(key, "[" * 10**5 + "]" * 10**5),
    "deep lists": lambda key: forged(
        key, '{"class": "builtins:list", "parts": [' * 900 + "]}" * 900
    ),
    "a deep header": lambda key: forged(key, A, npy((1,), descr="-" * 9000 + "1")),
    "a deep dtype": lambda key: forged(key, A, npy((1,), descr="[" * 90 + "]" * 90)),
    "one array many times": lambda key: forged(
        key, said("builtins:list", A, A), npy((1,), b"1234")
    ),
    "an array of another kind": lambda key: forged(key, '{"array": "x"}', npy((1,), b"1234")),
    "another dtype": lambda key: forged(
        key, '{"array": "numpy", "dtype": "object"}', npy((2,), b"12345678")
    ),
    "no header": lambda key: forged(key, A).replace(b"{", b"x"),
    "no array": lambda key: forged(key, A),
    "a key of another kind": lambda key: forged(
        key, said("builtins:dict", said("builtins:list"), "1")
    ),
    "a key without its value": lambda key: forged(key, said("builtins:dict", "1")),
    "nothing that is known": lambda key: forged(key, '{"unknown": 1}'),
}


@pytest.mark.parametrize("what", FORGED)
def test_forged_files_are_computed_again(what, kept):
    keep, calls, path = kept
    key = key_in(path)
    path.write_bytes(forged(key, "7"))
    assert keep(20) == 7  # the forgery as such works
    path.write_bytes(FORGED[what](key))
    with pytest.warns(UserWarning, match=r"is damaged \(.+\), so it is computed again"):
        assert keep(20)["x"].shape == (20,)
    assert len(calls) == 2


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_bytes_make_it_raise(data):
    """Bytes of a real file written over, cut out and put in; and bytes alone."""
    whole = data.draw(st.sampled_from([WHOLE, b""]), "the file")
    for _ in range(data.draw(st.integers(1, 4), "changes")):
        start = data.draw(st.integers(0, len(whole)))
        end = data.draw(st.integers(start, min(start + 40, len(whole))))
        whole = whole[:start] + data.draw(st.binary(max_size=40)) + whole[end:]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "x.am"
        path.write_bytes(whole)
        found = _cached.read(path, "key")
    assert found is None or equal(found[0], KEPT)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
def test_what_is_no_file_is_not_waited_for(kept):
    keep, calls, path = kept
    path.unlink()
    os.mkfifo(path)
    with pytest.warns(UserWarning, match="cannot be read .it is no ordinary file"):
        keep(20)
    assert len(calls) == 2


def test_a_result_nested_too_deep_is_returned(tmp_path, plain_keys):
    deep = []
    for _ in range(10**5):
        deep = [deep]
    with pytest.warns(UserWarning, match="maximum recursion depth.*not kept"):
        assert cached(tmp_path, "x")(lambda: deep)() is deep
    assert not list(tmp_path.iterdir())
    while deep:  # Python frees it without running out of its stack
        deep = deep.pop()


@pytest.mark.parametrize("length", [0, 1, 10, 200, -1])
def test_half_a_file_is_computed_again(kept, length):
    keep, calls, path = kept
    path.write_bytes(path.read_bytes()[:length])
    with pytest.warns(UserWarning, match=r"x-\w+.am is damaged .*, so it is computed again"):
        keep(20)
    assert len(calls) == 2
    keep(20)  # and now it is whole
    assert len(calls) == 2


def test_the_result_of_another_call_is_refused(kept):
    keep, calls, path = kept
    keep(30)
    (other,) = set(path.parent.iterdir()) - {path}
    path.write_bytes(other.read_bytes())
    with pytest.warns(UserWarning, match="holds the result of another call"):
        assert keep(20)["x"].shape == (20,)
    assert len(calls) == 3


class Evil:
    ran = False

    def __reduce__(self):
        return (setattr, (Evil, "ran", True))


def test_nothing_is_unpickled(kept):
    keep, calls, path = kept
    array = np.empty((), object)
    array[()] = Evil()
    np.save(body := io.BytesIO(), array, allow_pickle=True)
    path.write_bytes(forged(key_in(path), A, body.getvalue()))
    assert pickle.loads(pickle.dumps(Evil())) is None  # the trap works
    assert Evil.ran
    Evil.ran = False
    with pytest.warns(UserWarning, match="damaged"):
        keep(20)
    assert not Evil.ran
    assert len(calls) == 2


@pytest.mark.parametrize(
    "tree",
    [
        said("subprocess:Popen"),
        '{"class": "subprocess:Popen"}',
        '{"class": "amlib:ClassicalHopfield"}',
        said("amlib:ClassicalHopfield"),
        said("antigravity:X"),
        said("builtins:set"),
        '{"unknown": 1}',
    ],
)
def test_a_file_names_no_class_but_data(kept, tree):
    keep, calls, path = kept
    path.write_bytes(forged(key_in(path), tree))
    with pytest.warns(UserWarning, match="damaged"):
        keep(20)
    assert len(calls) == 2
    assert "antigravity" not in sys.modules


# -- two at once ------------------------------------------------------------------------------


def test_readers_never_see_half_a_file(tmp_path, plain_keys):
    """Four threads write and read one entry; a half-written file would warn, and so fail."""
    fn, _ = counted(lambda n: np.arange(n))
    keep = cached(tmp_path, "x")(fn)
    errors = []

    def work():
        try:
            for _ in range(10):
                np.testing.assert_array_equal(keep(200_000), np.arange(200_000))
                for path in tmp_path.glob("x-*.am"):
                    path.unlink(missing_ok=True)
        except Exception as err:
            errors.append(err)

    threads = [threading.Thread(target=work) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not errors
    assert not list(tmp_path.glob(".x-*"))


def test_files_hold_json_and_arrays(kept):
    """As `amlib._files` says; no more than this is needed to read one."""
    _, _, path = kept
    with path.open("rb") as file:
        file.readline()
        assert json.loads(file.readline())["notes"]["result"]["class"] == "builtins:dict"
        np.testing.assert_array_equal(np.load(file), np.arange(20))
        np.testing.assert_array_equal(np.load(file), np.ones(3))
        assert not file.read()
