"""VBx: variational Bayes clustering of embeddings in the PLDA space.

Landini et al., "Bayesian HMM clustering of x-vector sequences" (arXiv 2012.14952), in the form
without a hidden Markov model: windows overlap and hold several speakers, so the order of their
embeddings says nothing (arXiv 2510.19572, section 3.1). It starts from an agglomerative clustering
with too many clusters and lets those that explain too little die out.
"""

import numpy as np
from scipy.special import logsumexp, softmax

from raydiar.clustering.clusters import Clusters
from raydiar.clustering.kmeans import kmeans_labels
from raydiar.clustering.linkage import cut, linkage
from raydiar.clustering.parameters import SpeakerBounds, VBxParameters
from raydiar.clustering.plda import PLDA
from raydiar.clustering.subclusters import sub_clusters
from raydiar.clustering.vectors import group_means

START_METHOD = "centroid"
START_SHARPNESS = 7.0
MAX_ITERATIONS = 20
MIN_GAIN = 1e-4
MIN_PRIOR = 1e-7


def cluster_vbx(
    embeddings: np.ndarray,
    parameters: VBxParameters,
    plda: PLDA,
    bounds: SpeakerBounds,
    exact_limit: int,
) -> Clusters:
    """Cluster embeddings; k-means takes over when the number found is out of bounds.

    Parameters
    ----------
    embeddings : (num_embeddings, dimension) float32
        Finite, in the order of the recording.
    bounds : SpeakerBounds
        No more than there are embeddings.
    exact_limit : int
        With more embeddings than this, sub-clusters are clustered, each with the mean of its
        PLDA features and the weight of its size.
    """
    if len(embeddings) < 2:
        return Clusters.single(embeddings)
    points = sub_clusters(embeddings, START_METHOD, parameters.threshold, exact_limit)
    start = cut(linkage(points.centers, points.sizes, START_METHOD), parameters.threshold)
    count = len(points.sizes)
    if points.trivial:
        features, means = plda(embeddings), embeddings.astype(np.float64)
    else:
        features = group_means(embeddings, points.members, count, transform=plda)
        means = group_means(embeddings, points.members, count)
    responsibilities, priors = vbx(
        features, plda.phi, start, parameters.Fa, parameters.Fb, points.sizes
    )

    alive = priors > MIN_PRIOR
    target = bounds.nearest(np.count_nonzero(alive))
    if target != np.count_nonzero(alive):
        labels = kmeans_labels(embeddings, target)
        return Clusters.from_labels(embeddings, labels, two_level=not points.trivial)
    shares = responsibilities[:, alive] * points.sizes[:, None]
    return Clusters(
        labels=responsibilities[:, alive].argmax(axis=1)[points.members],
        centroids=shares.T @ means / shares.sum(axis=0)[:, None],
        constrained=True,
        two_level=not points.trivial,
    )


def vbx(
    features: np.ndarray,
    phi: np.ndarray,
    start: np.ndarray,
    Fa: float,
    Fb: float,
    weights: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Speaker responsibilities by coordinate ascent on the evidence lower bound (ELBO).

    Parameters
    ----------
    features : (num_points, dimension) float64
        In the PLDA space.
    phi : (dimension,) float64
        Between-speaker variance along each axis.
    start : (num_points,) int
        First guess of the speaker of each point, numbered from 0.
    Fa, Fb : float
        Scales of the statistics and of the prior.
    weights : (num_points,) int
        Embeddings that each point stands for: a point of weight w acts as w equal ones.

    Returns
    -------
    responsibilities : (num_points, num_speakers) float64
    priors : (num_speakers,) float64
    """
    count, dimension = features.shape
    num_speakers = start.max() + 1
    guess = np.zeros((count, num_speakers))
    guess[np.arange(count), start] = START_SHARPNESS
    responsibilities = softmax(guess, axis=1)
    priors = np.full(num_speakers, 1.0 / num_speakers)

    weights = weights.astype(np.float64)
    squares = np.einsum("td,td->t", features, features)
    constant = -0.5 * (squares + dimension * np.log(2 * np.pi))
    rho = features * np.sqrt(phi)
    previous = -np.inf
    for _ in range(MAX_ITERATIONS):
        shares = responsibilities * weights[:, None]
        precision = 1.0 + Fa / Fb * shares.sum(axis=0)[:, None] * phi
        variance = 1.0 / precision
        alpha = Fa / Fb * variance * (shares.T @ rho)
        penalty = 0.5 * (variance + alpha**2) @ phi
        scores = Fa * (rho @ alpha.T - penalty + constant[:, None]) + np.log(priors + 1e-8)
        evidence = logsumexp(scores, axis=1)
        responsibilities = np.exp(scores - evidence[:, None])
        mass = weights @ responsibilities
        priors = mass / mass.sum()
        prior_term = 0.5 * Fb * np.sum(np.log(variance) - variance - alpha**2 + 1.0)
        elbo = weights @ evidence + prior_term
        if elbo - previous < MIN_GAIN:
            break
        previous = elbo
    return responsibilities, priors
