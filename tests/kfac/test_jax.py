"""Tapped functions of JAX arrays: moments against per-example gradients, names, compilation."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from kronops.kfac import ConvLayer, DenseLayer, GradientLayer, RecurrentLayer

jax = pytest.importorskip("jax", reason="JAX is not installed")
jnp = pytest.importorskip("jax.numpy")
kfac = pytest.importorskip("kronops.kfac.jax")

RNG = np.random.default_rng(7)
B, IN, HIDDEN, OUT = 6, 4, 3, 2
LIKELIHOODS = ["categorical", "gaussian"]


@pytest.fixture(autouse=True, scope="module")
def double_precision():
    """For this file alone."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)
    jax.clear_caches()


def model(params, x, tap=kfac.untapped):
    h = jnp.tanh(tap("hidden", x, x @ params["hidden"]["w"] + params["hidden"]["b"]))
    return tap("output", h, h @ params["output"]["kernel"])


def draw(*shape):
    return RNG.normal(size=shape)


PARAMS = {
    "hidden": {"w": draw(IN, HIDDEN), "b": draw(HIDDEN)},
    "output": {"kernel": draw(HIDDEN, OUT)},
}
X = draw(B, IN)
TARGETS = {"categorical": np.asarray([0, 1, 1, 0, 1, 0]), "gaussian": draw(B, OUT)}


def layers(structure="kronecker", **more):
    return {
        "hidden": DenseLayer(bias=True, structure=structure),
        "output": DenseLayer(structure=structure),
        **more,
    }


def losses(likelihood):
    def loss(params, x, y):
        z = model(params, x)
        return (
            -jax.nn.log_softmax(z)[y]
            if likelihood == "categorical"
            else 0.5 * jnp.sum((z - y) ** 2)
        )

    return loss


def rows(gradient, name):
    """Gradients of examples, flat, with the bias as the last row of the weights."""
    parts = gradient[name]
    w = parts.get("w", parts.get("kernel"))
    parts = [w, parts["b"][:, None, :]] if "b" in parts else [w]
    return np.asarray(jnp.concatenate(parts, axis=1)).reshape(len(w), -1)


def gauss_newton(likelihood, name):
    """``E[Jᵀ H J]``, by one Jacobian for each example."""
    total = 0.0
    for x in X:
        jacobian = jax.jacrev(model)(PARAMS, x)
        j = rows(jacobian, name)
        p = np.asarray(jax.nn.softmax(model(PARAMS, x)))
        h = np.diag(p) - np.outer(p, p) if likelihood == "categorical" else np.eye(OUT)
        total = total + j.T @ h @ j / B
    return total


class TestMoments:
    """Full moments are those of per-example gradients."""

    @pytest.mark.parametrize("likelihood", LIKELIHOODS)
    def test_empirical(self, likelihood):
        curvature = kfac.capture(model, PARAMS, layers("full"))
        curvature.update(PARAMS, (X, TARGETS[likelihood]), likelihood, "empirical")
        gradient = jax.vmap(jax.grad(losses(likelihood)), (None, 0, 0))(
            PARAMS, X, TARGETS[likelihood]
        )
        for name, moment in curvature.curvature.moments.items():
            g = rows(gradient, name)
            np.testing.assert_allclose(moment, g.T @ g / B, atol=1e-14)

    @pytest.mark.parametrize("likelihood", LIKELIHOODS)
    def test_exact(self, likelihood):
        curvature = kfac.capture(model, PARAMS, layers("full"))
        curvature.update(PARAMS, (X, None), likelihood, "exact")
        for name, moment in curvature.curvature.moments.items():
            np.testing.assert_allclose(moment, gauss_newton(likelihood, name), atol=1e-14)

    @pytest.mark.parametrize("likelihood", LIKELIHOODS)
    def test_sampled_is_exact_on_average(self, likelihood):
        curvature = kfac.capture(model, PARAMS, layers("full"))
        key = jax.random.key(0)
        curvature.update(PARAMS, (X, None), likelihood, key_or_rng=key, samples=1000)
        for name, moment in curvature.curvature.moments.items():
            exact = gauss_newton(likelihood, name)
            assert np.linalg.norm(moment - exact) < 0.2 * np.linalg.norm(exact)

    def test_of_a_function_of_the_loss(self):
        def loss(outputs, targets):
            return jnp.sum(jnp.abs(outputs - targets) ** 3, axis=1)

        curvature = kfac.capture(model, PARAMS, layers("full"))
        y = TARGETS["gaussian"]
        curvature.update(PARAMS, (X, y), loss, "empirical")
        gradient = jax.vmap(jax.grad(lambda p, x, y: loss(model(p, x)[None], y)[0]), (None, 0, 0))
        g = rows(gradient(PARAMS, X, y), "hidden")
        np.testing.assert_allclose(curvature.curvature.moments["hidden"], g.T @ g / B, atol=1e-13)
        with pytest.raises(ValueError, match='"empirical" alone'):
            curvature.update(PARAMS, (X, y), loss, "exact")
        with pytest.raises(ValueError, match="the loss of each example"):
            curvature.update(PARAMS, (X, y), lambda z, y: jnp.sum(z), "empirical")

    def test_single_precision_stays(self):
        single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (PARAMS, X))
        curvature = kfac.capture(model, single[0], layers())
        curvature.update(single[0], (single[1], None), "categorical", "exact")
        for factor in curvature.curvature.moments["hidden"]:
            assert factor.dtype == jnp.float32


class TestBlocks:
    @pytest.mark.parametrize("likelihood", LIKELIHOODS)
    def test_kronecker_is_exact_of_one_linear_layer_with_gaussian_or_one_example(self, likelihood):
        def linear(params, x, tap=kfac.untapped):
            return tap("w", x, x @ params["w"])

        x = X if likelihood == "gaussian" else X[:1]
        blocks = []
        for structure in ("kronecker", "full"):
            only = kfac.capture(linear, {"w": X.T}, {"w": DenseLayer(structure=structure)})
            only.update({"w": X.T}, (x, None), likelihood, "exact")
            blocks.append(only.operator().operator.to_dense())
        np.testing.assert_allclose(*blocks, atol=1e-13)

    def test_vectors_are_pytrees(self):
        curvature = kfac.capture(model, PARAMS, layers())
        curvature.fit(PARAMS, [(X, None)], "categorical", "exact")
        operator = curvature.operator(0.1)
        gradient = jax.grad(lambda p: jnp.sum(model(p, X) ** 2))(PARAMS)
        step = operator.multiply_inverse(gradient)
        assert jax.tree.structure(step) == jax.tree.structure(PARAMS)
        for name, vector in {
            "hidden": (gradient["hidden"]["w"], gradient["hidden"]["b"]),
            "output": (gradient["output"]["kernel"],),
        }.items():
            block = curvature.curvature.layers[name].operator(0.1)
            want = block.multiply_inverse(vector if len(vector) == 2 else vector[0])
            made = [step[name][key] for key in ("w", "b", "kernel") if key in step[name]]
            for got, part in zip(made, want if len(vector) == 2 else (want,), strict=True):
                np.testing.assert_allclose(got, part)
        back = jax.jit(lambda op, v: op.multiply(v))(operator, step)
        np.testing.assert_allclose(back["hidden"]["b"], gradient["hidden"]["b"])
        squared = operator.multiply_power(step, 2)
        np.testing.assert_allclose(squared["hidden"]["b"], operator.multiply(back)["hidden"]["b"])

    def test_fit_averages_over_examples(self):
        whole, parts = (kfac.capture(model, PARAMS, layers("full")) for _ in range(2))
        seen = []

        def progress(loader):
            for batch in loader:
                seen.append(len(batch[0]))
                yield batch

        whole.update(PARAMS, (X, None), "categorical", "exact")
        loader = [(X[:4], None), (X[4:], None)]
        parts.fit(PARAMS, loader, "categorical", "exact", progress=progress)
        assert seen == [4, 2]
        for name, moment in whole.curvature.moments.items():
            np.testing.assert_allclose(parts.curvature.moments[name], moment)

    def test_samples_of_batches_are_not_the_same(self):
        once, twice = (kfac.capture(model, PARAMS, layers("full")) for _ in range(2))
        key = jax.random.key(0)
        once.fit(PARAMS, [(X, None)], "gaussian", key_or_rng=key)
        twice.fit(PARAMS, [(X, None)] * 2, "gaussian", key_or_rng=key)
        one, two = (c.curvature.moments["output"] for c in (once, twice))
        assert not np.allclose(one, two)

    def test_eigenvalues(self):
        curvature = kfac.capture(model, PARAMS, layers())
        for statistics in ("moments", "eigenvalues"):
            curvature.fit(PARAMS, [(X, None)], "gaussian", "exact", statistics=statistics)
        exact = gauss_newton("gaussian", "hidden")
        distances = {
            method: np.linalg.norm(
                curvature.operator(method=method).operator.operators[0].to_dense() - exact
            )
            for method in ("ekfac", "exact")
        }
        assert 0 < distances["ekfac"] < distances["exact"]

    def test_decay(self):
        curvature = kfac.capture(model, PARAMS, layers(), decay=0.5)
        for x in (X[:2], X[2:4]):
            curvature.update(PARAMS, (x, None), "gaussian", "exact")
        want = (X[:2].T @ X[:2] / 2 + 2 * X[2:4].T @ X[2:4] / 2) / 3
        moment = curvature.curvature.moments["hidden"][0]
        np.testing.assert_allclose(moment[:IN, :IN], want)


class TestUses:
    def test_repeated_use_is_an_axis(self):
        """A recurrent network: the names are tapped at each time."""

        def unrolled(params, xs, tap=kfac.untapped):
            h = jnp.zeros((xs.shape[1], HIDDEN))
            for x in xs:
                inputs = jnp.concatenate([x, h], axis=1)
                h = jnp.tanh(tap("cell", inputs, inputs @ params["cell"]))
            return h

        params, xs = {"cell": draw(IN + HIDDEN, HIDDEN)}, draw(3, B, IN)
        blocks = {}
        for kind, layer in {
            "series": RecurrentLayer(1),
            "uses": DenseLayer(uses=3),
            "full": DenseLayer(uses=3, structure="full"),
        }.items():
            curvature = kfac.capture(unrolled, params, {"cell": layer})
            curvature.update(params, (xs, None), "gaussian", "exact")
            blocks[kind] = curvature.operator(0.1).multiply(params)["cell"]
            assert blocks[kind].shape == (IN + HIDDEN, HIDDEN)
        inputs, gradients = curvature.batches(params, (xs, None), "gaussian", "exact")["cell"]
        assert inputs.shape == (3, B, IN + HIDDEN)
        assert gradients.shape == (HIDDEN, 3, B, HIDDEN)

        def last(params, x):
            return unrolled(params, x[:, None])[0]

        jacobian = jax.vmap(jax.jacrev(last), (None, 1))(params, xs)["cell"]
        summed = jnp.einsum("tbi,dtbo->bdio", inputs, gradients)
        np.testing.assert_allclose(summed, jacobian, atol=1e-14)

    def test_gradients_of_a_parameter_that_is_broadcast(self):
        def scaled(params, x, tap=kfac.untapped):
            scale = jnp.broadcast_to(params["scale"], (len(x), OUT))
            return model(params, x) * tap("scale", None, scale)

        params = {**PARAMS, "scale": draw(OUT)}
        curvature = kfac.capture(
            scaled, params, {"scale": GradientLayer("full")}, unknown="identity"
        )
        curvature.update(params, (X, None), "gaussian", "exact")
        j = np.asarray(model(params, X))
        np.testing.assert_allclose(curvature.curvature.moments["scale"], np.diag((j**2).mean(0)))


def images(params, x, tap=kfac.untapped):
    """Channels last, a kernel of 3 × 2 and strides, then a dense layer."""
    kernel, bias = params["conv"]["kernel"], params["conv"]["bias"]
    order = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, kernel, (2, 1), "SAME", dimension_numbers=order) + bias
    h = jnp.tanh(tap("conv", x, y)).reshape(len(x), -1)
    return tap("output", h, h @ params["output"]["kernel"] + params["output"]["bias"])


IMAGES = {
    "conv": {"kernel": draw(3, 2, 2, 3), "bias": draw(3)},
    "output": {"kernel": draw(2 * 3 * 3, 2), "bias": draw(2)},
}


class TestConvolutions:
    def test_full_moment_is_that_of_the_gradients_of_examples(self):
        layer = ConvLayer((3, 2), strides=(2, 1), bias=True, structure="full")
        curvature = kfac.capture(images, IMAGES, {"conv": layer, "output": DenseLayer(bias=True)})
        x, y = draw(B, 4, 3, 2), TARGETS["gaussian"]
        curvature.update(IMAGES, (x, y), "gaussian", "empirical")
        gradient = jax.vmap(
            jax.grad(lambda p, x, y: 0.5 * jnp.sum((images(p, x[None]) - y) ** 2)), (None, 0, 0)
        )(IMAGES, x, y)["conv"]
        g = np.concatenate([gradient[key].reshape(B, -1) for key in ("kernel", "bias")], axis=1)
        np.testing.assert_allclose(curvature.curvature.moments["conv"], g.T @ g / B, atol=1e-13)
        assert curvature.operator(0.1).multiply(IMAGES)["conv"]["kernel"].shape == (3, 2, 2, 3)

    def test_the_same_net_in_pytorch_has_the_same_operator(self):
        torch = pytest.importorskip("torch", reason="PyTorch is not installed")
        watched = pytest.importorskip("kronops.kfac.torch")
        net = torch.nn.Sequential(
            torch.nn.Conv2d(2, 3, (3, 2), bias=True, dtype=torch.float64),
            torch.nn.Tanh(),
            torch.nn.Flatten(),
            torch.nn.Linear(12, 2, dtype=torch.float64),
        )
        x, params = draw(B, 4, 3, 2), _of_torch(net)
        theirs = watched.capture(net)
        theirs.fit([(torch.asarray(x).permute(0, 3, 1, 2), None)], "categorical", "exact")
        layers = {
            "0": ConvLayer((3, 2), padding="VALID", bias=True, layout="out,in"),
            "3": DenseLayer(bias=True, layout="out,in"),
        }
        ours = kfac.capture(_like_torch, params, layers)
        ours.update(params, (x, None), "categorical", "exact")
        want = theirs.operator(0.1).multiply_inverse(
            {name: parameter.detach() for name, parameter in net.named_parameters()}
        )
        got = ours.operator(0.1).multiply_inverse(params)
        for name, layer in got.items():
            for kind, part in layer.items():
                np.testing.assert_allclose(part, want[f"{name}.{kind}"], rtol=1e-10, atol=1e-12)


def _of_torch(net):
    """``{"0": {"weight": …, "bias": …}, …}``, in PyTorch's layout."""
    params: dict = {}
    for name, parameter in net.named_parameters():
        layer, _, kind = name.partition(".")
        params.setdefault(layer, {})[kind] = parameter.detach().numpy()
    return params


def _like_torch(params, x, tap=kfac.untapped):
    order = ("NHWC", "OIHW", "NHWC")
    weight, bias = params["0"]["weight"], params["0"]["bias"]
    y = jax.lax.conv_general_dilated(x, weight, (1, 1), "VALID", dimension_numbers=order) + bias
    h = jnp.tanh(tap("0", x, y)).transpose(0, 3, 1, 2).reshape(len(x), -1)
    return tap("3", h, h @ params["3"]["weight"].T + params["3"]["bias"])


class TestNames:
    def test_unknown_parameters(self):
        params = {**PARAMS, "scale": jnp.asarray(2.0)}
        with pytest.warns(UserWarning, match="without a curvature block: scale") as caught:
            curvature = kfac.capture(model, params, layers())
        assert caught[0].filename == __file__
        assert curvature.unknown == ("scale",)
        curvature.update(params, (X, None), "gaussian", "exact")
        with pytest.raises(ValueError, match=r"no block has \['scale'\]"):
            curvature.operator(0.1).multiply_inverse(params)
        with pytest.raises(ValueError, match=r"block: scale\. unknown="):
            kfac.capture(model, params, layers(), unknown="error")
        identity = kfac.capture(model, params, layers(), unknown="identity")
        identity.update(params, (X, None), "gaussian", "exact")
        assert float(identity.operator(0.25).multiply(params)["scale"]) == 2.5

    def test_a_bias_that_the_layer_lacks_is_unknown(self):
        plain = {"hidden": DenseLayer(), "output": DenseLayer()}
        with pytest.warns(UserWarning, match="hidden/b"):
            curvature = kfac.capture(model, PARAMS, plain)
        assert curvature.unknown == ("hidden/b",)

    def test_names_that_are_given(self):
        params = [PARAMS["hidden"]["w"], PARAMS["hidden"]["b"], PARAMS["output"]["kernel"]]

        def listed(params, x, tap=kfac.untapped):
            w, b, kernel = params
            return model({"hidden": {"w": w, "b": b}, "output": {"kernel": kernel}}, x, tap)

        places = {"hidden": ("0", "1"), "output": "2"}
        curvature = kfac.capture(listed, params, layers(), parameters=places)
        curvature.update(params, (X, None), "gaussian", "exact")
        want = kfac.capture(model, PARAMS, layers())
        want.update(PARAMS, (X, None), "gaussian", "exact")
        got = curvature.operator(0.1).multiply(params)
        np.testing.assert_allclose(got[1], want.operator(0.1).multiply(PARAMS)["hidden"]["b"])

    @pytest.mark.parametrize(
        "parameters, words",
        [
            ({"first": "hidden/w"}, r"parameters has \['first'\]"),
            ({"hidden": ("hidden/w", "hidden/bias")}, r"lacks \['hidden/bias'\]"),
            ({"hidden": ("output/kernel",)}, "in two places"),
            ({"hidden": ("a", "b", "c")}, "a name or a pair"),
        ],
    )
    def test_names_that_are_wrong(self, parameters, words):
        with pytest.raises(ValueError, match=words):
            kfac.capture(model, PARAMS, layers(), parameters=parameters)

    def test_names_that_are_not_found(self):
        with pytest.raises(ValueError, match="nothing for the layer 'third'"):
            kfac.capture(model, PARAMS, layers(third=DenseLayer()))

    def test_names_that_are_not_tapped(self):
        params = {**PARAMS, "third": jnp.ones((2, 2))}
        curvature = kfac.capture(model, params, layers(third=DenseLayer()))
        with pytest.raises(ValueError, match="'third', which the model does not tap"):
            curvature.update(params, (X, None), "gaussian", "exact")

    def test_taps_whose_results_are_ignored(self):
        def ignoring(params, x, tap):
            y = x @ params["hidden"]["w"] + params["hidden"]["b"]
            tap("hidden", x, y)
            return tap("output", jnp.tanh(y), jnp.tanh(y) @ params["output"]["kernel"])

        def once(params, x, tap):
            return tap("hidden", x, x @ params["hidden"]["w"]) + ignoring(params, x, tap).sum()

        def last(params, x, tap):
            y = x @ params["output"]["kernel"]
            tap("output", x, y)
            return y

        words = "the outputs of the model do not depend on what its tap gives back"
        for function, name, where in (
            (ignoring, "hidden", ""),
            (once, "hidden", " in use 2 of 2"),
            (last, "output", ""),
        ):
            params = {**PARAMS, "output": {"kernel": draw(HIDDEN, OUT)}}
            if function is last:
                params = {"output": {"kernel": draw(IN, OUT)}}
            some = {key: layer for key, layer in layers().items() if key in params}
            curvature = kfac.capture(function, params, some)
            with pytest.raises(ValueError, match=f"layers has '{name}', but {words}{where}:"):
                curvature.update(params, (X, None), "gaussian", "exact")
        watched = kfac.capture(ignoring, PARAMS, {"output": DenseLayer()}, unknown="identity")
        watched.update(PARAMS, (X, None), "gaussian", "exact")

    def test_a_tap_of_what_does_not_depend_on_the_arguments(self):
        def constant(params, x, tap=kfac.untapped):
            return model(params, x) * tap("scale", None, jnp.ones((B, OUT)))

        params = {**PARAMS, "scale": jnp.ones(OUT)}
        curvature = kfac.capture(constant, params, {"scale": GradientLayer()}, unknown="identity")
        curvature.update(params, (X, None), "gaussian", "exact")
        want = (np.asarray(model(params, X)) ** 2).mean(0)
        np.testing.assert_allclose(curvature.curvature.moments["scale"], want)

    def test_layers_of_two_captures(self):
        shared = layers()
        first, second = (kfac.capture(model, PARAMS, shared) for _ in range(2))
        first.update(PARAMS, (X, None), "gaussian", "exact")
        with pytest.raises(ValueError, match="no statistics yet"):
            second.operator()
        warm = kfac.capture(model, PARAMS, first.curvature.layers)
        warm.update(PARAMS, (X, None), "gaussian", "exact")
        np.testing.assert_allclose(
            warm.curvature.moments["hidden"][1], first.curvature.moments["hidden"][1]
        )
        weights = [c.curvature.state_dict()["hidden"]["moments.weight"] for c in (first, warm)]
        assert weights == [B, 2 * B]

    def test_two_parameters_of_one_name(self):
        params = {**PARAMS, "hidden/w": draw(2)}
        with pytest.raises(ValueError, match=r"two parameters called 'hidden/w'.*rename one"):
            kfac.capture(model, params, layers())

    def test_keys_that_are_integers_of_numpy(self):
        params = {np.int64(0): PARAMS["hidden"], np.int64(1): PARAMS["output"]}

        def numbered(params, x, tap=kfac.untapped):
            names = {"hidden": "0", "output": "1"}
            named = {"hidden": params[0], "output": params[1]}
            return model(named, x, lambda name, *rest: tap(names[name], *rest))

        some = {"0": DenseLayer(bias=True), "1": DenseLayer()}
        curvature = kfac.capture(numbered, params, some)
        curvature.update(params, (X, None), "gaussian", "exact")
        want = kfac.capture(model, PARAMS, layers())
        want.update(PARAMS, (X, None), "gaussian", "exact")
        got = curvature.operator(0.1).multiply(params)[0]["b"]
        np.testing.assert_allclose(got, want.operator(0.1).multiply(PARAMS)["hidden"]["b"])

    def test_settings(self):
        with pytest.raises(ValueError, match="unknown = 'drop'"):
            kfac.capture(model, PARAMS, layers(), unknown="drop")
        curvature = kfac.capture(model, PARAMS, layers())
        with pytest.raises(ValueError, match="statistics = 'all'"):
            curvature.update(PARAMS, (X, None), "gaussian", "exact", statistics="all")
        with pytest.raises(ValueError, match="a pair"):
            curvature.update(PARAMS, X, "gaussian", "exact")
        with pytest.raises(ValueError, match="loader is empty"):
            curvature.fit(PARAMS, [], "gaussian", "exact")
        with pytest.raises(ValueError, match="outside 0 … 1"):
            curvature.update(PARAMS, (X, np.full(B, 2)), "categorical", "empirical")


class TestCompilation:
    def test_once_for_all_batches(self):
        traced = []

        def counting(params, x, tap=kfac.untapped):
            traced.append(x)
            return model(params, x, tap)

        curvature = kfac.capture(counting, PARAMS, layers())
        curvature.update(PARAMS, (X, None), "gaussian", "exact")
        before = len(traced)
        curvature.fit(PARAMS, [(draw(B, IN), None) for _ in range(5)], "gaussian", "exact")
        assert len(traced) == before

    def test_no_tracer_is_kept(self):
        curvature = kfac.capture(model, PARAMS, layers())
        update = functools.partial(curvature.update, likelihood="gaussian", fisher="exact")
        with pytest.raises(TypeError, match="keeps no tracers"):
            jax.jit(lambda x: update(PARAMS, (x, None)))(X)
        update(PARAMS, (X, None))
        with pytest.raises(TypeError, match="keeps no tracers"):
            jax.jit(lambda x: update(PARAMS, (x, None)))(X)
        state = jax.tree.leaves(curvature.curvature.state_dict())
        arrays = [part for part in state if hasattr(part, "shape")]
        assert len(arrays) == 4
        assert not any(isinstance(array, jax.core.Tracer) for array in arrays)

    def test_batches_under_jit(self):
        curvature = kfac.capture(model, PARAMS, layers())
        make = functools.partial(curvature.batches, likelihood="categorical", fisher="exact")
        made = jax.jit(lambda params, x: make(params, (x, None)))(PARAMS, X)
        jax.tree.map(np.testing.assert_allclose, made, make(PARAMS, (X, None)))

    def test_a_tap_inside_another_compilation(self):
        def inner(params, x, tap=kfac.untapped):
            return jax.jit(lambda params, x: model(params, x, tap))(params, x)

        curvature = kfac.capture(inner, PARAMS, layers())
        with pytest.raises(jax.errors.UnexpectedTracerError) as caught:
            curvature.update(PARAMS, (X, None), "gaussian", "exact")
        assert any("a tap was called inside" in note for note in caught.value.__notes__)

    def test_untapped_is_the_model(self):
        jaxpr = jax.make_jaxpr(model)(PARAMS, X)
        plain = jax.make_jaxpr(lambda p, x: model(p, x, lambda name, x, y: y))(PARAMS, X)
        assert str(jaxpr) == str(plain)
