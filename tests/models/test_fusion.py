"""Fusions against their equations in numpy and float64; the oracle of low-rank fusion is full tensor fusion."""

import numpy as np
import paddle
import pytest

from lmf_multitask.errors import ConfigError
from lmf_multitask.models.fusion import ConcatFusion, LateFusion, LowRankFusion, TensorFusion


def low_rank(sizes, rank, dim, init="variance", skip=False):
    return LowRankFusion(sizes, 2, LowRankFusion.Settings(rank=rank, dim=dim, init=init, skip=skip))


def tensor(sizes, dim):
    return TensorFusion(sizes, 2, TensorFusion.Settings(dim=dim))


def concat(sizes, dim, outputs=2):
    return ConcatFusion(sizes, outputs, ConcatFusion.Settings(dim=dim))


def late(sizes, outputs):
    return LateFusion(sizes, outputs, LateFusion.Settings())


@pytest.fixture
def float64():
    """Paddle makes new weights in double precision, so that only the algebra can differ."""
    before = paddle.get_default_dtype()
    paddle.set_default_dtype("float64")
    yield
    paddle.set_default_dtype(before)


def random_weights(fusion, seed):
    rng = np.random.default_rng(seed)
    for weight in fusion.parameters():
        weight.set_value(rng.normal(size=weight.shape).astype(weight.numpy().dtype))


def full_tensor_fusion(hidden, fusion):
    """W . (z_1 (x) ... (x) z_M) + b with the whole W of size K x prod(H_m + 1), and every product of numbers built."""
    factors = [factor.numpy() for factor in fusion.factors]
    rank_weights, bias = fusion.rank_weights.numpy()[0], fusion.bias.numpy()[0]
    letters = "abcd"[: len(hidden)]
    of_weight = ",".join(f"r{letter}k" for letter in letters)
    weight = np.einsum(f"r,{of_weight}->{letters}k", rank_weights, *factors)
    ones = [np.concatenate([np.ones((len(z), 1)), z], axis=1) for z in hidden]
    of_tensor = ",".join(f"n{letter}" for letter in letters)
    tensor = np.einsum(f"{of_tensor}->n{letters}", *ones)
    return np.einsum(f"n{letters},{letters}k->nk", tensor, weight) + bias


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize(("rank", "dim"), [(1, 1), (1, 2), (3, 4), (8, 2)])
@pytest.mark.parametrize("sizes", [[3], [3, 2], [4, 3, 5], [2, 3, 1, 4]])
def test_equals_full_tensor_fusion(float64, sizes, rank, dim, rows):
    fusion = low_rank(sizes, rank, dim)
    random_weights(fusion, seed=len(sizes) * 100 + rank)
    rng = np.random.default_rng(rows)
    hidden = [rng.normal(size=(rows, size)) for size in sizes]
    got = fusion([paddle.to_tensor(z) for z in hidden])
    assert got.shape == [rows, dim]
    np.testing.assert_allclose(got.numpy(), full_tensor_fusion(hidden, fusion), rtol=1e-12, atol=1e-12)


def test_float32_is_the_same_up_to_rounding():
    fusion = low_rank([4, 3, 5], 8, 6)
    random_weights(fusion, seed=0)
    hidden = [np.random.default_rng(1).normal(size=(7, size)).astype("float32") for size in (4, 3, 5)]
    got = fusion([paddle.to_tensor(z) for z in hidden])
    assert got.dtype == paddle.float32
    expected = full_tensor_fusion([z.astype("float64") for z in hidden], fusion)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_a_modality_that_is_zero_leaves_the_products_of_the_others():
    """With z_m = [1; 0] the constant 1 keeps the other modalities' terms: nothing is multiplied away."""
    fusion = low_rank([2, 3], 4, 5)
    random_weights(fusion, seed=2)
    one = np.random.default_rng(3).normal(size=(6, 3)).astype("float32")
    got = fusion([paddle.zeros([6, 2]), paddle.to_tensor(one)]).numpy()
    first, second = (factor.numpy() for factor in fusion.factors)
    alone = np.einsum("r,rk,nh,rhk->nk", fusion.rank_weights.numpy()[0], first[:, 0], one, second[:, 1:])
    constant = np.einsum("r,rk,rk->k", fusion.rank_weights.numpy()[0], first[:, 0], second[:, 0])
    np.testing.assert_allclose(got, alone + constant + fusion.bias.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("sizes", "rank", "dim"), [([4, 16, 64], 1, 2), ([32, 16, 64], 8, 64), ([5], 3, 2)])
def test_number_of_parameters(sizes, rank, dim):
    """R sum(H_m + 1) K factors, R weights of the terms, K biases: for (4, 16, 64), 1, 2 that is 2 (5 + 17 + 65) + 1 + 2."""
    fusion = low_rank(sizes, rank, dim)
    count = sum(int(np.prod(weight.shape)) for weight in fusion.parameters())
    assert count == rank * (sum(sizes) + len(sizes)) * dim + rank + dim
    if sizes == [4, 16, 64]:
        assert count == 177
    assert all(not weight.stop_gradient for weight in fusion.parameters())
    assert len(fusion.state_dict()) == len(fusion.parameters()) == len(sizes) + 2


def test_every_parameter_learns():
    """MultiBench keeps its factors in a plain list: they are never trained, and no test of it notices."""
    fusion = low_rank([4, 3, 5], 3, 2)
    random_weights(fusion, seed=4)
    hidden = [paddle.to_tensor(np.random.default_rng(5).normal(size=(8, size)).astype("float32")) for size in (4, 3, 5)]
    before = {name: weight.numpy().copy() for name, weight in fusion.named_parameters()}
    optimizer = paddle.optimizer.Adam(0.01, parameters=fusion.parameters())
    (fusion(hidden) ** 2).mean().backward()
    for name, weight in fusion.named_parameters():
        assert weight.grad is not None, name
        assert (weight.grad.numpy() != 0).all(), name
    optimizer.step()
    for name, weight in fusion.named_parameters():
        assert (weight.numpy() != before[name]).all(), name


def test_first_values_keep_the_variance():
    """Each projection z_m F_m^r of z_m with numbers of variance 1 has variance (H_m + 1) / (H_m + 1) = 1."""
    paddle.seed(0)
    fusion = low_rank([99, 24], 64, 32, "variance")
    for factor, size in zip(fusion.factors, (100, 25)):
        values = factor.numpy()
        np.testing.assert_allclose(values.var() * size, 1.0, rtol=0.03)
        np.testing.assert_allclose(values.mean() * size**0.5, 0.0, atol=0.02)
    np.testing.assert_array_equal(fusion.bias.numpy(), 0)
    paddle.seed(0)
    weights = np.concatenate([low_rank([1], 64, 1).rank_weights.numpy().ravel() for _ in range(40)])
    np.testing.assert_allclose(weights.var() * 64, 1.0, rtol=0.1)


def test_xavier_first_values_are_those_of_a_convolution():
    """Paddle reads [R, H, K] as a convolution of R filters over H channels with K places: variance 2 / (H K + R K)."""
    paddle.seed(0)
    fusion = low_rank([99], 50, 20, "xavier")
    np.testing.assert_allclose(fusion.factors[0].numpy().var(), 2 / (100 * 20 + 50 * 20), rtol=0.03)


def test_wrong_first_values_are_refused():
    with pytest.raises(ConfigError, match="init must be 'variance' or 'xavier', but got 'zeros'"):
        low_rank([3], 2, 2, "zeros")


# -- the others


@pytest.fixture
def hidden():
    rng = np.random.default_rng(1)
    return [rng.normal(size=(7, size)).astype("f4") for size in (3, 2, 2)]


def run(fusion, hidden):
    return fusion([paddle.to_tensor(vectors) for vectors in hidden]).numpy()


def test_tensor_fusion_is_the_outer_product(hidden):
    fusion = tensor((3, 2, 2), 6)
    fusion.bias.set_value(np.arange(6, dtype="f4")[None])
    weight = fusion.weight.numpy().astype("f8").reshape(4, 3, 3, 6)
    ones = [np.concatenate([np.ones((7, 1)), vectors], axis=1) for vectors in hidden]
    wanted = np.einsum("ba,bv,bt,avtk->bk", *ones, weight) + np.arange(6)
    np.testing.assert_allclose(run(fusion, hidden), wanted, rtol=1e-5, atol=1e-5)


def test_first_values_of_tensor_fusion_keep_the_variance():
    """Numbers of variance 1, weighed and added up over all products, have variance 1 again."""
    paddle.seed(0)
    fusion = tensor((9, 9, 9), 64)
    values = fusion.weight.numpy()
    np.testing.assert_allclose(values.var() * 10**3, 1.0, rtol=0.03)
    np.testing.assert_allclose(values.mean() * 10**1.5, 0.0, atol=0.02)
    np.testing.assert_array_equal(fusion.bias.numpy(), 0)


def test_low_rank_fusion_is_tensor_fusion_with_a_factored_weight(hidden):
    low, full = low_rank((3, 2, 2), 5, 6), tensor((3, 2, 2), 6)
    factors = [factor.numpy().astype("f8") for factor in low.factors]
    weight = np.einsum("r,rak,rvk,rtk->avtk", low.rank_weights.numpy()[0], *factors)
    full.weight.set_value(weight.reshape(36, 6).astype("f4"))
    np.testing.assert_allclose(run(low, hidden), run(full, hidden), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dim", [6, None])
def test_concat_fusion(hidden, dim):
    fusion = concat((3, 2, 2), dim, outputs=6)
    wanted = np.concatenate(hidden, axis=1).astype("f8") @ fusion.linear.weight.numpy() + fusion.linear.bias.numpy()
    assert (wanted < 0).any()
    np.testing.assert_allclose(run(fusion, hidden), np.maximum(wanted, 0) if dim else wanted, atol=1e-6)


def test_the_skip_path_is_added(hidden):
    with_skip, without = low_rank((3, 2, 2), 4, 6, skip=True), low_rank((3, 2, 2), 4, 6)
    for name, weight in without.named_parameters():
        weight.set_value(dict(with_skip.named_parameters())[name])
    added = np.concatenate(hidden, axis=1) @ with_skip.skip.weight.numpy() + with_skip.skip.bias.numpy()
    assert (added < 0).any()
    np.testing.assert_allclose(
        run(with_skip, hidden), run(without, hidden) + np.maximum(added, 0), rtol=1e-5, atol=1e-6
    )
    assert with_skip.flops() - without.flops() == 2 * 7 * 6


def test_late_fusion_is_the_mean_of_probabilities(hidden):
    fusion = late((3, 2, 2), 4)
    each = []
    for vectors, linear in zip(hidden, fusion.linears):
        powers = np.exp((vectors.astype("f8") @ linear.weight.numpy() + linear.bias.numpy()).reshape(7, 2, 2))
        each.append(powers / powers.sum(axis=-1, keepdims=True))
    found = np.exp(run(fusion, hidden).astype("f8")).reshape(7, 2, 2)
    np.testing.assert_allclose(found, np.mean(each, axis=0), rtol=1e-5)


@pytest.mark.parametrize(
    ("fusion", "flops"),
    [
        # per rank and dim: a product with 4 + 3 + 3 numbers, two products of modalities, one weighing
        (lambda: low_rank((3, 2, 2), 5, 6), 5 * 6 * (2 * 10 + 2 + 2)),
        (lambda: low_rank((3,), 5, 6), 5 * 6 * (2 * 4 + 2)),
        # 4 x 3, then 4 x 3 x 3 products, each weighed for 6 numbers
        (lambda: tensor((3, 2, 2), 6), 12 + 36 + 2 * 36 * 6),
        (lambda: concat((3, 2, 2), 6), 2 * 7 * 6),
        (lambda: late((3, 2, 2), 4), 2 * 7 * 4),
    ],
)
def test_flops(fusion, flops):
    assert fusion().flops() == flops
