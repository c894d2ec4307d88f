"""Bounds of the generalisation gap, and measures of capacity: each a function of norms of the layers and of the sample.

A *bound* is a theorem with all of its constants and logarithms: with probability 1 - delta over the training images,
error on new images <= share of training images with a margin of at most gamma + the number that is given here. A
*measure* is what such a theorem grows with, without constants; it is below or above the gap as it happens.

Networks are f(x) = A_L phi_{L-1}(... phi_1(A_1 x)) with matrices A_i and fixed maps phi_i that keep 0 at 0. Biases are
a column of the matrix more, for a 1 that every layer but the last passes on. Letters: n images, C classes, gamma the
margin, L layers, |X| root of the sum of the squared norms of the n images, s_i spectral norm and |A_i|_F Frobenius norm
of A_i, M_i its initial value.

Where gamma and the norms were not chosen before the data, theorems of fixed ones are used for a grid of powers of 1.05
("peeling"): see `rounded`. The step from two classes to C is Maurer's (2016, "A vector-contraction inequality for
Rademacher complexities"): the ramp loss of the margin is sqrt(2)/gamma-Lipschitz in the logits, so that

    error <= margin error + 2 sqrt(2) sqrt(2)/gamma R + 3 sqrt(ln(2/delta) / 2n)                               (*)

with R = 1/n E sup sum_ik eps_ik f_k(x_i) over the class. Layers are peeled off by Ledoux and Talagrand's contraction, a
factor of 2 each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.phenomena.analysis import AnalysisError

GRID = math.log(1.05)


@dataclass(frozen=True)
class LayerNorms:
    """What the formulas need to know of A_i and of phi_i behind it.

    Args:
        inputs: columns of A.
        outputs: rows of A.
        spectral: largest singular value of A.
        frobenius: root of the sum of all squared entries of A.
        largest_row: largest l1 norm of a row of A.
        rows: sum over the rows of A of their l2 norms, |A^T|_{2,1}.
        rows_from_start: sum over the rows of A - M of their l2 norms, |(A - M)^T|_{2,1}.
        from_start: |A - M|_F.
        lipschitz: of phi, in the l2 norm.
        maps: what phi consists of: relu, tanh, maximum, average; empty for the last layer.
        sup_lipschitz: of phi, in the sup norm, in which an average has 1 whatever its windows.
    """

    inputs: int
    outputs: int
    spectral: float
    frobenius: float
    largest_row: float
    rows: float
    rows_from_start: float
    from_start: float
    lipschitz: float = 1.0
    maps: frozenset[str] = frozenset()
    sup_lipschitz: float = 1.0


@dataclass(frozen=True)
class Sample:
    """What the formulas need to know of the n training images, as the first layer sees them.

    Args:
        images: n.
        classes: C.
        margin: gamma.
        squares: |X|^2, sum over the images of their squared l2 norms.
        longest: largest l2 norm of an image.
        peaks: sum over the images of the squares of their largest absolute pixels.
        delta: probability with which a bound may fail.
    """

    images: int
    classes: int
    margin: float
    squares: float
    longest: float
    peaks: float
    delta: float = 0.01

    def __post_init__(self) -> None:
        if not self.margin > 0:
            raise AnalysisError(f"the margin (={self.margin:.3g}) must be above 0 to divide by: train longer.")


def rounded(value: float) -> tuple[float, float]:
    """`value` rounded up to a power of 1.05, and the logarithm that the choice of the power j costs.

    Each j holds with probability 1 - delta / (3 (1 + |j|)^2), all together with 1 - delta, because the sum of
    1 / (1 + |j|)^2 over all whole numbers is 2 pi^2/6 - 1 < 3.
    """
    power = math.ceil(math.log(value) / GRID - 1e-9)
    return math.exp(power * GRID), math.log(3 * (1 + abs(power)) ** 2)


def only(layers: Sequence[LayerNorms], allowed: set[str]) -> bool:
    """Whether the maps between the layers are all among `allowed`."""
    return all(layer.maps <= allowed for layer in layers)


def product(values: Sequence[float] | list[float]) -> float:
    """Of all values, by logarithms: forty layers do not overflow. 0 where one is 0."""
    return math.exp(sum(math.log(value) for value in values)) if all(value > 0 for value in values) else 0.0


def from_zero(layers: Sequence[LayerNorms]) -> list[LayerNorms]:
    """The same with M = 0 in place of the initial weights, as far as rows are summed: theorems leave M to choice."""
    return [replace(layer, rows_from_start=layer.rows) for layer in layers]


# -- bounds -----------------------------------------------------------------------------------------------------------


def bartlett_2017(layers: Sequence[LayerNorms], sample: Sample) -> float:
    """Bartlett, Foster, Telgarsky 2017, "Spectrally-normalized margin bounds for neural networks", Lemma A.8.

        8/n + 144 ln(n) ln(2W) / (gamma n) prod_i rho_i (1 + |X|)
              (sum_i [(1/L + b_i) prod_{j != i} (1/L + s_j)]^{2/3})^{3/2}
        + sqrt(9/(2n)) sqrt(ln(1/delta) + ln(2n/gamma) + 2 ln(2 + |X|) + 2 sum_i ln((2 + L b_i)(2 + L s_i)))

    with b_i = |(A_i - M_i)^T|_{2,1}, rho_i the Lipschitz constant of phi_i and W the largest side of a matrix. From
    memory; the constants are those of Neyshabur et al. 2019's code (github.com/bneyshabur/over-parametrization), which
    leaves out the 1/L. Any maps phi that keep 0 at 0.
    """
    n, depth, length = sample.images, len(layers), math.sqrt(sample.squares)
    widest = max(max(layer.inputs, layer.outputs) for layer in layers)
    b = [1 / depth + layer.rows_from_start for layer in layers]
    s = [1 / depth + layer.spectral for layer in layers]
    sizes = (
        product([*s, *(layer.lipschitz for layer in layers)])
        * sum((one / norm) ** (2 / 3) for one, norm in zip(b, s, strict=True)) ** 1.5
    )
    leading = 144 * math.log(n) * math.log(2 * widest) / (sample.margin * n) * (1 + length) * sizes
    choices = sum(math.log((2 + depth * layer.rows_from_start) * (2 + depth * layer.spectral)) for layer in layers)
    rest = max(0.0, -math.log(sample.delta) + math.log(2 * n / sample.margin) + 2 * math.log(2 + length) + 2 * choices)
    return 8 / n + leading + math.sqrt(9 / (2 * n) * rest)


def neyshabur_2018(layers: Sequence[LayerNorms], sample: Sample) -> float | None:
    """Neyshabur, Bhojanapalli, Srebro 2018, "A PAC-Bayesian approach to spectrally-normalized margin bounds".

    The proof of Theorem 1 with our numbers: beta = (prod s_i)^{1/L} is on the grid, weights are balanced to a spectral
    norm of beta each and disturbed by N(0, sigma^2), sigma = gamma / (4 e sqrt(2) L B rho beta^{L-1} sqrt(h ln(4Lh))).
    Then logits move by at most gamma/4 with probability 1/2 (Lemma 2), and Lemma 1 gives

        4 sqrt((KL + ln(6 n / delta)) / (n - 1)),
        KL = 16 e^2 L^2 B^2 rho^2 beta^{2L} h ln(4 L h) / gamma^2  sum_i |A_i|_F^2 / s_i^2.

    B the longest image, known before the data by assumption; of n training images it is the longest of those. h the
    largest side of a matrix, rho the product of Lipschitz constants. None where a map is not positively homogeneous (no
    tanh): weights could not be balanced.
    """
    if not only(layers, {"relu", "maximum", "average"}) or any(layer.spectral <= 0 for layer in layers):
        return None
    n, depth = sample.images, len(layers)
    widest = max(max(layer.inputs, layer.outputs) for layer in layers)
    ratio, cost = rounded(product([*(one.spectral * one.lipschitz for one in layers)]) / sample.margin)
    ranks = sum((layer.frobenius / layer.spectral) ** 2 for layer in layers)
    divergence = (4 * math.e * depth * sample.longest * ratio) ** 2 * widest * math.log(4 * depth * widest) * ranks
    return 4 * math.sqrt((divergence + math.log(6 * n / sample.delta) + cost) / (n - 1))


def neyshabur_2018_from_start(layers: Sequence[LayerNorms], sample: Sample) -> float | None:
    """The same with noise around the initial weights M_i, as Neyshabur et al. 2019 compare it; our derivation.

    Weights stay as they are, and layer i is disturbed by N(0, (s_i tau)^2), s_i on the grid, gamma downwards, with
    tau = gamma / (4 e sqrt(2) L B rho prod_i s_i sqrt(h ln(4Lh))). All disturbances are at most s_i/L with probability
    1/2, then logits move by at most e B rho prod_i s_i sum_i |U_i| / s_i <= gamma/4, and

        KL = 16 e^2 L^2 B^2 rho^2 prod_i s_i^2 h ln(4 L h) / gamma^2  sum_i |A_i - M_i|_F^2 / s_i^2.

    Any maps phi: nothing is balanced. None where a matrix is 0.
    """
    if any(layer.spectral <= 0 for layer in layers):
        return None
    n, depth = sample.images, len(layers)
    widest = max(max(layer.inputs, layer.outputs) for layer in layers)
    inverse, cost = rounded(1 / sample.margin)
    norms = [rounded(layer.spectral) for layer in layers]
    ratio = product([*(norm for norm, _ in norms), *(layer.lipschitz for layer in layers)]) * inverse
    moved = sum((layer.from_start / norm) ** 2 for layer, (norm, _) in zip(layers, norms, strict=True))
    divergence = (4 * math.e * depth * sample.longest * ratio) ** 2 * widest * math.log(4 * depth * widest) * moved
    costs = cost + sum(one for _, one in norms)
    return 4 * math.sqrt((divergence + math.log(6 * n / sample.delta) + costs) / (n - 1))


def neyshabur_2015(layers: Sequence[LayerNorms], sample: Sample) -> float | None:
    """Neyshabur, Tomioka, Srebro 2015, "Norm-based capacity control in neural networks", for the Frobenius norm.

        4/gamma 2^{L-1} sqrt(C) prod_i |A_i|_F |X| / n + 3 sqrt(ln(2/delta) / 2n)

    of (*); for L = 2 the constant is the 8 sqrt(C) of Neyshabur et al. 2019's code. None unless all maps are ReLU: the
    proof takes the lengths of the rows out of each unit.
    """
    if not only(layers, {"relu"}):
        return None
    n = sample.images
    size, cost = rounded(product([layer.frobenius for layer in layers]) / sample.margin)
    leading = 2.0 ** (len(layers) + 1) * math.sqrt(sample.classes * sample.squares) * size / n
    return leading + 3 * math.sqrt((math.log(2 / sample.delta) + cost) / (2 * n))


def bartlett_mendelson_2002(layers: Sequence[LayerNorms], sample: Sample) -> float | None:
    """Bartlett, Mendelson 2002, "Rademacher and Gaussian complexities", for bounded l1 norms.

        4/gamma C 2^{L-1} prod_i rho_i |A_i|_{1,inf} sqrt(2 ln(2D) sum_k |x_k|_inf^2) / n + 3 sqrt(ln(2/delta) / 2n)

    of (*), with Massart's lemma for the D inputs. rho_i is phi_i's in the sup norm: of maps of each unit by
    itself (ReLU, tanh) their steepest slope, of averages, whose rows have l1 norm 1, 1. None where maxima are taken.
    """
    if not only(layers, {"relu", "tanh", "average"}):
        return None
    n = sample.images
    rows = product([layer.largest_row * layer.sup_lipschitz for layer in layers])
    size, cost = rounded(rows / sample.margin)
    inputs = math.sqrt(2 * math.log(2 * layers[0].inputs) * sample.peaks)
    leading = 2.0 ** (len(layers) + 1) * sample.classes * size * inputs / n
    return leading + 3 * math.sqrt((math.log(2 / sample.delta) + cost) / (2 * n))


def neyshabur_2019(layers: Sequence[LayerNorms], sample: Sample, initial_squares: float) -> float | None:
    """Neyshabur, Li, Bhojanapalli, LeCun, Srebro 2019, "The role of over-parametrization in generalization", Theorem 2.

    `neyshabur_2019_leading` + 3 sqrt((5 h + ln(max(1, gamma sqrt(n)) / delta)) / n), h hidden units; constants as in
    the code of its authors. None unless there are two layers with ReLU between them.

    Args:
        layers: U, from its start U_0, and V.
        sample: the training images.
        initial_squares: |U_0 X|^2, sum over the images of the squared norms of what the first layer gave at the start.
    """
    leading = neyshabur_2019_leading(layers, sample, initial_squares)
    if leading is None:
        return None
    n = sample.images
    rest = 5 * layers[0].outputs + math.log(max(1.0, sample.margin * math.sqrt(n)) / sample.delta)
    return leading + 3 * math.sqrt(rest / n)


def neyshabur_2019_leading(layers: Sequence[LayerNorms], sample: Sample, initial_squares: float) -> float | None:
    """Its first term, 3 sqrt(2) (sqrt(2C) + 1) (|V|_F + 1) (|U - U_0|_F |X| + |U_0 X| + sqrt(n)) / (gamma n)."""
    if len(layers) != 2 or not only(layers, {"relu"}):
        return None
    n = sample.images
    first = layers[0].from_start * math.sqrt(sample.squares) + math.sqrt(initial_squares) + math.sqrt(n)
    factor = 3 * math.sqrt(2) * (math.sqrt(2 * sample.classes) + 1)
    return factor * (layers[1].frobenius + 1) * first / (sample.margin * n)


def noise_bound(distance: float, sigma: float, images: int, choices: int, delta: float = 0.01) -> float:
    """PAC-Bayes for the network whose weights get noise N(0, sigma^2) anew for every image, from the initial weights.

        sqrt((|w - w_0|^2 / (2 sigma^2) + ln(2 sqrt(n) choices / delta)) / (2n))

    McAllester 1999 in Maurer's form (2004, "A note on the PAC Bayesian theorem"). It bounds that network's gap, and not
    that of the one without noise. sigma is one of so many `choices` that were fixed before.
    """
    logarithm = math.log(2 * math.sqrt(images) * choices / delta)
    return math.sqrt((distance**2 / (2 * sigma**2) + logarithm) / (2 * images))


# -- measures ---------------------------------------------------------------------------------------------------------


def spectral_complexity(layers: Sequence[LayerNorms]) -> float:
    """R_A = prod_i rho_i s_i (sum_i (b_i / s_i)^{2/3})^{3/2}, Bartlett et al. 2017, equation 1.2."""
    size = product([layer.spectral * layer.lipschitz for layer in layers])
    ratios = sum((layer.rows_from_start / layer.spectral) ** (2 / 3) for layer in layers)
    return size * ratios**1.5


def per_margin(value: float, sample: Sample) -> float:
    """A norm of the network, over gamma sqrt(n)."""
    return value / (sample.margin * math.sqrt(sample.images))


def cushion_measure(cushions: Sequence[float], contraction: float, largest_logits: float, sample: Sample) -> float:
    """Arora, Ge, Neyshabur, Zhang 2018, "Stronger generalization bounds via a compression approach", Theorem 4.1, of it

        sqrt(c^2 L^2 max |f(x)|^2 sum_i 1/mu_i^2 / (gamma^2 n))

    without constants, logarithms and the interlayer cushions, which are at most 1 and would raise it: a measure.

    Args:
        cushions: mu_i of each layer, the least |A_i x| / (|A_i|_F |x|) over its inputs x of the training images.
        contraction: c, the largest |z| / |phi(z)| over what the layers but the last give.
        largest_logits: largest norm of the logits of a training image.
        sample: the training images.
    """
    total = sum(1 / cushion**2 for cushion in cushions)
    top = contraction * len(cushions) * largest_logits
    return top * math.sqrt(total / sample.images) / sample.margin
