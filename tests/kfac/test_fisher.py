"""The output gradients of likelihoods: their second moments are Hessians."""

from __future__ import annotations

import numpy as np
import pytest

from kronops.kfac.fisher import output_gradients

rng = np.random.default_rng(11)
LOGITS = rng.normal(size=(3, 4))


def softmax(outputs):
    odds = np.exp(outputs)
    return odds / odds.sum(axis=-1, keepdims=True)


def second_moments(draws):
    """For each example, over all its outputs."""
    flat = draws.reshape(*draws.shape[:2], -1)
    return np.einsum("dbi,dbj->bij", flat, flat)


def hessian(logits):
    p = softmax(logits)
    return np.diag(p) - np.outer(p, p)


class TestExact:
    def test_categorical_is_a_root_of_the_hessian(self):
        draws = output_gradients(LOGITS, "categorical", "exact")
        assert draws.shape == (4, 3, 4)
        np.testing.assert_allclose(
            second_moments(draws), [hessian(row) for row in LOGITS], atol=1e-15
        )

    def test_gaussian_is_the_identity(self):
        draws = output_gradients(LOGITS, "gaussian", "exact")
        np.testing.assert_array_equal(second_moments(draws), [np.eye(4)] * 3)

    def test_places_do_not_interact(self):
        logits = rng.normal(size=(2, 3, 4))
        moments = second_moments(output_gradients(logits, "categorical", "exact"))
        for example, moment in zip(logits, moments, strict=True):
            expected = np.zeros((3, 4, 3, 4))
            for place, row in enumerate(example):
                expected[place, :, place, :] = hessian(row)
            np.testing.assert_allclose(moment, expected.reshape(12, 12), atol=1e-15)

    def test_large_logits_do_not_overflow(self):
        draws = output_gradients(np.array([[1e4, 0.0]]), "categorical", "exact")
        assert np.isfinite(draws).all()


class TestEmpirical:
    def test_categorical_is_the_derivative(self):
        labels = np.array([0, 3, 1])
        (gradient,) = output_gradients(LOGITS, "categorical", "empirical", targets=labels)
        np.testing.assert_allclose(gradient, softmax(LOGITS) - np.eye(4)[labels])

    def test_gaussian_is_the_residual(self):
        targets = rng.normal(size=(3, 4))
        (gradient,) = output_gradients(LOGITS, "gaussian", "empirical", targets=targets)
        np.testing.assert_array_equal(gradient, LOGITS - targets)

    @pytest.mark.parametrize(
        ("likelihood", "targets", "words"),
        [
            ("categorical", None, "needs targets"),
            ("categorical", np.array([0, 4, 1]), "outside 0 … 3"),
            ("categorical", np.array([0, -1, 1]), "outside 0 … 3"),
            ("categorical", np.array([0.0, 1.0, 2.0]), "integer labels"),
            ("categorical", np.array([0, 1]), r"shape \(3,\) are needed"),
            ("gaussian", np.zeros(3), r"\(3, 4\)"),
        ],
    )
    def test_targets_that_do_not_fit(self, likelihood, targets, words):
        with pytest.raises(ValueError, match=words):
            output_gradients(LOGITS, likelihood, "empirical", targets=targets)


class TestSampled:
    @pytest.mark.parametrize("likelihood", ["categorical", "gaussian"])
    def test_many_samples_are_exact(self, likelihood):
        generator = np.random.default_rng(3)
        draws = output_gradients(
            LOGITS, likelihood, "sampled", key_or_rng=generator, samples=100_000
        )
        exact = output_gradients(LOGITS, likelihood, "exact")
        np.testing.assert_allclose(second_moments(draws), second_moments(exact), atol=0.02)

    def test_categorical_labels_are_labels(self):
        generator = np.random.default_rng(3)
        (gradient,) = output_gradients(LOGITS, "categorical", "sampled", key_or_rng=generator)
        chosen = softmax(LOGITS) - gradient
        np.testing.assert_allclose(np.sort(chosen), np.eye(4)[[3, 3, 3]], atol=1e-15)

    def test_needs_a_source(self):
        with pytest.raises(ValueError, match="key_or_rng"):
            output_gradients(LOGITS, "gaussian", "sampled")


@pytest.mark.parametrize(
    ("outputs", "likelihood", "fisher", "words"),
    [
        (LOGITS, "poisson", "exact", "likelihood = 'poisson'"),
        (LOGITS, "gaussian", "hessian", "fisher = 'hessian'"),
        (LOGITS[0], "gaussian", "exact", r"\(B, C\)"),
    ],
)
def test_unknown_settings(outputs, likelihood, fisher, words):
    with pytest.raises(ValueError, match=words):
        output_gradients(outputs, likelihood, fisher)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers(value):
    broken = LOGITS.copy()
    broken[1, 2] = value
    for fisher in ("exact", "empirical"):
        with pytest.raises(ValueError, match="outputs has NaN or infinite logits"):
            output_gradients(broken, "categorical", fisher, targets=np.zeros(3, int))
    with pytest.raises(ValueError, match="none but -inf for an example"):
        output_gradients(np.full((1, 2), -np.inf), "categorical", "exact")


def test_a_label_of_probability_zero():
    logits = np.array([[0.0, -np.inf, 0.0]])
    (moment,) = second_moments(output_gradients(logits, "categorical", "exact"))
    np.testing.assert_allclose(moment, hessian(logits[0]), atol=1e-16)


def test_targets_in_a_list():
    with pytest.raises(TypeError, match="targets is a list: an array of labels is needed"):
        output_gradients(LOGITS, "categorical", "empirical", targets=[0, 1, 2])
