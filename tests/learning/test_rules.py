"""Storage rules: their definitions in plain loops, what they promise, what they refuse."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import amlib as am
from amlib.learning import rules

D = 24


def spins(seed, K, D=D):
    return np.random.default_rng(seed).choice([-1.0, 1.0], (K, D))


def bits(seed, K, a, D=D):
    return (np.random.default_rng(seed).random((K, D)) < a).astype(float)


def off_diagonal(J):
    return J - np.diag(np.diag(J))


def test_hebb_is_its_definition():
    Xi = spins(0, 5)
    np.testing.assert_allclose(
        rules.hebb(Xi, self_coupling=True), sum(np.outer(x, x) for x in Xi) / D, rtol=1e-6
    )
    np.testing.assert_allclose(rules.hebb(Xi), off_diagonal(Xi.T @ Xi / D), rtol=1e-6)
    # the energy is that of ClassicalHopfield, over D, up to the constant of the diagonal
    x = jnp.asarray(spins(1, 1)[0], jnp.float32)
    classical = am.ClassicalHopfield(Xi).energy(x) / D + 0.5 * 5
    np.testing.assert_allclose(am.BipolarIsing(rules.hebb(Xi)).energy(x), classical, rtol=1e-5)


def test_storkey_is_its_definition():
    Xi, J = spins(2, 4, 7), np.zeros((7, 7))
    for x in Xi:
        new = J.copy()
        for i in range(7):
            for j in range(7):
                if i == j:
                    continue
                h_ij = sum(J[i, k] * x[k] for k in range(7) if k not in (i, j))
                h_ji = sum(J[j, k] * x[k] for k in range(7) if k not in (i, j))
                new[i, j] += (x[i] * x[j] - x[i] * h_ji - h_ij * x[j]) / 7
        J = new
    np.testing.assert_allclose(rules.storkey(Xi), J, atol=1e-6)


def test_pseudo_inverse_is_the_projection():
    Xi = spins(3, 10)
    J = np.asarray(rules.pseudo_inverse(Xi, self_coupling=True))
    np.testing.assert_allclose(J, np.linalg.pinv(Xi) @ Xi, atol=1e-5)
    np.testing.assert_allclose(J @ Xi.T, Xi.T, atol=1e-5)
    np.testing.assert_allclose(rules.pseudo_inverse(Xi), off_diagonal(J), atol=1e-6)


def test_pseudo_inverse_of_patterns_that_depend_on_others():
    Xi = spins(4, 3)
    again = np.concatenate([Xi, Xi[:1], -Xi[1:2]])
    J = rules.pseudo_inverse(Xi, self_coupling=True)
    np.testing.assert_allclose(rules.pseudo_inverse(again, self_coupling=True), J, atol=1e-5)
    np.testing.assert_allclose(rules.pseudo_inverse(again[3:], J, self_coupling=True), J, atol=1e-5)


@pytest.mark.parametrize("rule", [rules.hebb, rules.storkey, rules.pseudo_inverse])
def test_one_pattern_at_a_time_is_all_at_once(rule):
    Xi = spins(5, D - 2)
    options = {} if rule is rules.storkey else {"self_coupling": True}
    J = None
    for x in Xi:
        J = rule(x, J, **options)
    assert J is not None
    np.testing.assert_allclose(J, rule(Xi, **options), atol=2e-4)


def test_covariance_is_its_definition():
    eta, a = bits(6, 8, 0.2), 0.2
    J = (eta - a).T @ (eta - a) / (a * (1 - a) * D)
    found, h = rules.covariance(eta, activity=a)
    np.testing.assert_allclose(found, off_diagonal(J) / 2, atol=1e-6)
    # the field of a state is that of its ones against the threshold
    state = bits(7, 1, 0.2)[0]
    expected = off_diagonal(J) @ (state - a) - (0.5 - a)
    np.testing.assert_allclose(found @ (2 * state - 1) + h, expected, atol=1e-5)
    own, _ = rules.covariance(eta > 0.5)
    np.testing.assert_allclose(own, rules.covariance(eta, activity=eta.mean())[0], atol=1e-6)
    J1, _ = rules.covariance(eta[:3], activity=a)
    J2, h2 = rules.covariance(eta[3:], J1, activity=a)
    np.testing.assert_allclose(J2, found, atol=1e-6)
    np.testing.assert_allclose(h2, h, atol=1e-5)


def test_half_the_bits_on_is_hebb():
    """With activity 1/2 the deviations are half spins: J' = 2 J_Hebb, and no fields."""
    Xi = spins(8, 6)
    J, h = rules.covariance((Xi + 1) / 2, activity=0.5)
    np.testing.assert_allclose(J, rules.hebb(Xi) / 2, atol=1e-6)
    np.testing.assert_allclose(h, 0, atol=1e-6)


def test_unlearning_takes_away_what_recall_finds():
    J = rules.hebb(spins(9, 4))
    key = jr.key(0)
    found = rules.unlearning(J, key, rate=0.05, rounds=2)
    expected = np.asarray(J, np.float64)
    for k in range(2):
        starting, visiting = jr.split(jr.fold_in(key, k))
        x0 = jr.rademacher(starting, (D,), jnp.float32)
        end = am.BipolarIsing(jnp.asarray(expected, jnp.float32)).recall(x0, key=visiting)
        assert end.result == am.RESULTS.converged
        expected -= 0.05 / D * off_diagonal(np.outer(end.x, end.x))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_rules_take_what_users_have():
    Xi = spins(10, 3)
    J = rules.hebb(Xi)
    for same in (Xi > 0, Xi.astype(int), jnp.asarray(Xi, jnp.float16), Xi.reshape(3, 4, 6)):
        np.testing.assert_allclose(rules.hebb(same), J, atol=1e-6)
    assert rules.hebb(jnp.asarray(Xi, jnp.float16)).dtype == jnp.float32
    for rule in (rules.hebb, rules.storkey, rules.pseudo_inverse):
        np.testing.assert_allclose(jax.jit(rule)(jnp.asarray(Xi)), rule(Xi), atol=1e-5)


def test_rules_in_double_precision(x64):
    Xi = spins(11, 10)
    J = rules.pseudo_inverse(Xi, self_coupling=True)
    assert J.dtype == jnp.float64
    np.testing.assert_allclose(J @ Xi.T, Xi.T, atol=1e-12)
    assert rules.storkey(Xi).dtype == jnp.float64


@pytest.mark.parametrize("rule", [rules.hebb, rules.storkey, rules.pseudo_inverse])
def test_patterns_that_are_no_spins_are_refused(rule):
    with pytest.raises(ValueError, match="Xi: a state must hold only -1 and \\+1"):
        rule(bits(0, 2, 0.5))
    with pytest.raises(ValueError, match=r"Xi must hold patterns.*\(0, 3\) came"):
        rule(np.zeros((0, 3)))
    with pytest.raises(ValueError, match=r"J must have shape \(24, 24\).*\(3, 3\) came"):
        rule(spins(0, 2), np.zeros((3, 3)))
    with pytest.raises(ValueError, match="J: every value must be finite"):
        rule(spins(0, 2), np.full((D, D), np.nan))


def test_other_bad_input_is_refused():
    with pytest.raises(ValueError, match="covariance: Xi must hold only 0 and 1"):
        rules.covariance(spins(0, 2))
    with pytest.raises(ValueError, match=r"activity must lie in \(0, 1\); 0.0 came"):
        rules.covariance(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="need the activity that they were made with"):
        rules.covariance(bits(0, 2, 0.5), np.zeros((D, D)))
    with pytest.raises(ValueError, match="J must be a projection"):
        rules.pseudo_inverse(spins(0, 2), rules.pseudo_inverse(spins(0, 5)))
    with pytest.raises(ValueError, match="unlearning: rounds: must be at least 1"):
        rules.unlearning(rules.hebb(spins(0, 2)), jr.key(0), rounds=0)
    with pytest.raises(ValueError, match="unlearning: rate: must be finite and greater than 0"):
        rules.unlearning(rules.hebb(spins(0, 2)), jr.key(0), rate=-1.0)
    with pytest.raises(ValueError, match="J: must be symmetric"):
        rules.unlearning(np.triu(np.ones((4, 4))), jr.key(0))


# -- capacities --------------------------------------------------------------------------------


def recalled(J, h, x0, xi):
    """The share of states that end within 5 % of the bits of their pattern."""
    recall = jax.vmap(am.BipolarIsing(J, h).recall)
    end = recall(jnp.asarray(x0, jnp.float32)).x
    return float((jnp.mean(end * xi, axis=1) > 0.9).mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "load", "low", "high"),
    [
        (rules.hebb, 0.10, 0.95, 1.0),
        (rules.hebb, 0.25, 0.0, 0.15),
        (rules.storkey, 0.19, 0.95, 1.0),
        (rules.storkey, 0.6, 0.0, 0.1),
        (rules.pseudo_inverse, 0.99, 1.0, 1.0),
        (rules.pseudo_inverse, 1.05, 0.0, 1.0),
    ],
)
def test_capacities_are_the_known_ones(rule, load, low, high):
    """Hebb: 0.138 D. Storkey: above. Pseudo-inverse: D, at which every state is at rest."""
    D = 800
    Xi = spins(12, round(load * D), D)
    J = rule(Xi)
    if load > 1:
        # The patterns span everything: J is the identity without its diagonal, that is, nothing.
        assert float(jnp.abs(J).max()) < 1e-3
        return
    share = recalled(J, None, Xi[:50], jnp.asarray(Xi[:50], jnp.float32))
    assert low <= share <= high


@pytest.mark.slow
def test_unlearning_makes_room():
    """At 0.2 D, above the capacity of `hebb`, unlearning brings most patterns back."""
    D = 300
    Xi = spins(13, round(0.2 * D), D)
    J, xi = rules.hebb(Xi), jnp.asarray(Xi, jnp.float32)
    assert recalled(J, None, Xi, xi) < 0.5
    assert recalled(rules.unlearning(J, jr.key(0), rounds=1500), None, Xi, xi) > 0.9


@pytest.mark.slow
def test_the_covariance_rule_stores_sparse_patterns():
    """0.3 patterns per unit with 4 % ones; `hebb` on the same spins recalls none of them."""
    D = 800
    eta = bits(14, round(0.3 * D), 0.04, D)
    x = 2 * eta - 1

    def overlap(J, h):
        end = jax.vmap(am.BipolarIsing(J, h).recall)(jnp.asarray(x[:50], jnp.float32)).x
        ones = jnp.asarray(eta[:50], jnp.float32)
        on = (end + 1) / 2
        both = (on * ones).sum(1) / jnp.maximum(on.sum(1), ones.sum(1))
        return float((both > 0.9).mean())

    assert overlap(*rules.covariance(eta)) > 0.9
    assert overlap(rules.hebb(x), None) == 0.0
