"""Cluster the features of unlabelled crops: four algorithms as they come, and tuned by silhouette.

A feature set has one silhouette for all its clusterings: over Euclidean distances between the features as the network
gave them, whatever a clustering did to its input. A tuner that was free to choose the space it is judged in would
shrink it to two dimensions, where every partition looks compact.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import optuna
from scipy.stats import kruskal
from sklearn.cluster import DBSCAN, AgglomerativeClustering, BisectingKMeans, KMeans
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import pairwise_distances, silhouette_score
from sklearn.preprocessing import normalize, scale
from tqdm import tqdm

from eyestate.images import decode, to_input
from training.data.datasets import CLOSED, FAR_SIDE, OPEN, Crop
from training.evaluation.eer import Scores
from training.labelling.features import MEASURED, Values

Algorithm = Literal["kmeans", "bisecting", "agglomerative", "dbscan"]
Params = dict[str, Any]  # of an algorithm, with `scaling` and `components` of its input
Points = npt.NDArray[np.float64]
Clusters = npt.NDArray[np.int64]  # (N,) cluster of each crop, from 0; NOISE in none

ALGORITHMS: Final[tuple[Algorithm, ...]] = ("kmeans", "bisecting", "agglomerative", "dbscan")
NOISE: Final = -1
UNDECIDED: Final = -1  # side of a crop that is in no cluster
MIN_SHARE: Final = 0.1  # of the clustered crops in the smallest cluster: a few odd crops apart are no partition
MAX_NOISE: Final = 0.5  # share of the crops in no cluster
MIN_SAMPLES: Final = 5  # scikit-learn's default for DBSCAN
AS_GIVEN: Final[Params] = {"scaling": "none", "components": None}
DEFAULTS: Final[dict[Algorithm, Params]] = {
    "kmeans": {"n_clusters": 2, "init": "k-means++"},
    "bisecting": {"n_clusters": 2, "init": "random", "split": "biggest_inertia"},
    "agglomerative": {"n_clusters": 2, "linkage": "ward"},
    "dbscan": {"min_samples": MIN_SAMPLES, "core_share": "elbow"},
}


@dataclass(frozen=True, slots=True)
class Clustering:
    """A partition of the crops by one algorithm on one feature set; ``silhouette`` is None with under two clusters."""

    feature: str
    algorithm: Algorithm
    tuned: bool
    params: Params
    clusters: Clusters
    silhouette: float | None

    @property
    def name(self) -> str:
        return f"{self.feature}-{self.algorithm}-{'tuned' if self.tuned else 'default'}"

    @property
    def sizes(self) -> list[int]:
        return list(map(int, np.bincount(self.clusters[self.clusters != NOISE])))

    @property
    def noise(self) -> float:
        """Share of the crops in no cluster."""
        return float(np.mean(self.clusters == NOISE))


class Space:
    """A feature set, float32 (N, D), with what all its clusterings need."""

    def __init__(self, feature: str, values: Values, seed: int) -> None:
        self.feature = feature
        self.values = values.astype(np.float64)  # with less, rounding decides between partitions that are all but equal
        self.seed = seed
        self.distances = _distances(self.values)
        self.prepared = functools.cache(self._prepare)

    def _prepare(self, scaling: str, components: int | None) -> Points:
        """The features on the unit sphere, standardised or as given, and then their first principal components."""
        values: Points = {"none": np.array, "unit": normalize, "standard": scale}[scaling](self.values)
        if components is not None:
            values = PCA(min(components, *values.shape), random_state=self.seed).fit_transform(values)
        return values

    def silhouette(self, clusters: Clusters) -> float | None:
        """Silhouette (Rousseeuw 1987), -1 to 1, of the crops that are in a cluster; None with under two clusters."""
        inside = clusters != NOISE
        n_clusters = len(np.unique(clusters[inside]))
        if not 2 <= n_clusters < inside.sum():
            return None
        return float(silhouette_score(self.distances[np.ix_(inside, inside)], clusters[inside], metric="precomputed"))

    def cluster(self, algorithm: Algorithm, params: Params, *, tuned: bool) -> Clustering:
        """Cluster under the parameters; DBSCAN's ``core_share`` is replaced by what it comes to, with its ``eps``."""
        values = self.prepared(params["scaling"], params["components"])
        if algorithm == "dbscan":
            params = params | _radius(values, params["min_samples"], params["core_share"])
        clusters = _estimator(algorithm, params, self.seed).fit_predict(values).astype(np.int64)
        return Clustering(self.feature, algorithm, tuned, params, clusters, self.silhouette(clusters))


def _distances(values: Points) -> Points:
    distances: Points = pairwise_distances(values)
    np.fill_diagonal(distances, 0)
    return distances


def _estimator(algorithm: Algorithm, params: Params, seed: int) -> Any:
    match algorithm:
        case "kmeans":
            return KMeans(params["n_clusters"], init=params["init"], n_init=4, random_state=seed)
        case "bisecting":
            return BisectingKMeans(
                params["n_clusters"],
                init=params["init"],
                n_init=4,
                bisecting_strategy=params["split"],
                random_state=seed,
            )
        case "agglomerative":
            return AgglomerativeClustering(params["n_clusters"], linkage=params["linkage"])
        case "dbscan":
            return DBSCAN(eps=params["eps"], min_samples=params["min_samples"])


def _radius(values: Points, min_samples: int, core_share: float | Literal["elbow"]) -> Params:
    """DBSCAN's ``eps`` under which ``core_share`` of the crops have ``min_samples`` neighbours, themselves included.

    ``elbow``: where the curve of the sorted distances to the farthest of those neighbours (Ester et al. 1996) bends
    most, that is, lies farthest below its chord (Satopää et al. 2011).
    """
    nearest = min(min_samples, len(values)) - 1
    reach = np.sort(np.partition(_distances(values), nearest, axis=1)[:, nearest].astype(float))
    if core_share == "elbow":
        chord = np.linspace(reach[0], reach[-1], len(reach))
        core_share = float(np.argmax(chord - reach)) / max(1, len(reach) - 1)
    return {"core_share": core_share, "eps": max(float(np.quantile(reach, core_share)), 1e-12)}


def admissible(clustering: Clustering) -> bool:
    """Whether there are at least two clusters, none under ``MIN_SHARE``, and at most ``MAX_NOISE`` of the crops out.

    Without this the best silhouette is a handful of odd crops against all others.
    """
    return _excess(clustering) == 0


def _excess(clustering: Clustering) -> float:
    """How far the clustering is beyond what is admissible: 0 to 1.6."""
    sizes = clustering.sizes
    if len(sizes) < 2:
        return 1 + MIN_SHARE + max(0.0, clustering.noise - MAX_NOISE)
    return max(0.0, MIN_SHARE - min(sizes) / sum(sizes)) + max(0.0, clustering.noise - MAX_NOISE)


def by_default(space: Space, algorithm: Algorithm) -> Clustering:
    """The report's Table 1: two clusters, or for DBSCAN whatever the elbow gives, on the features as they are."""
    return space.cluster(algorithm, AS_GIVEN | DEFAULTS[algorithm], tuned=False)


def tune(space: Space, algorithm: Algorithm, study: optuna.Study, trials: int) -> Clustering:
    """Search preprocessing and parameters for the highest silhouette until the study holds so many trials.

    A trial that is not ``admissible`` counts as -1 less how far it is beyond, so that the sampler (TPE, Bergstra et
    al. 2011) finds its way back. Each trial has a sampler seeded by its number: a search that was killed goes on as if
    it had not been.

    Returns:
        The best clustering of the first ``trials``. Where no trial was admissible, neither is it.
    """

    def objective(trial: optuna.Trial) -> float:
        clustering = space.cluster(algorithm, suggest(trial, algorithm), tuned=True)
        excess = _excess(clustering)
        value = -1 - excess if excess or clustering.silhouette is None else clustering.silhouette
        return round(value, 6)  # equal partitions count as equal, however their sums were rounded

    def finished() -> list[optuna.trial.FrozenTrial]:
        return study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])

    with tqdm(
        total=trials, initial=min(len(finished()), trials), desc=f"tuning {study.study_name}", unit="trial"
    ) as bar:
        while (number := len(finished())) < trials:
            study.sampler = optuna.samplers.TPESampler(seed=space.seed + number)
            study.optimize(objective, n_trials=1)
            bar.update()
    best = max(
        finished()[:trials], key=lambda trial: float(trial.value or 0)
    )  # a study may have been searched for longer
    return space.cluster(algorithm, suggest(optuna.trial.FixedTrial(best.params), algorithm), tuned=True)


def suggest(trial: optuna.trial.BaseTrial, algorithm: Algorithm) -> Params:
    """The space that is searched, small enough for tens of trials."""
    params: Params = {
        "scaling": trial.suggest_categorical("scaling", ["none", "unit", "standard"]),
        "components": trial.suggest_categorical("components", [None, 64, 32, 16, 8]),
    }
    if algorithm == "dbscan":
        return params | {
            "min_samples": trial.suggest_int("min_samples", 3, 50, log=True),
            "core_share": trial.suggest_float("core_share", 0.05, 0.98),
        }
    params["n_clusters"] = trial.suggest_int("n_clusters", 2, 6)
    if algorithm == "agglomerative":
        return params | {"linkage": trial.suggest_categorical("linkage", ["ward", "complete", "average"])}
    params["init"] = trial.suggest_categorical("init", ["k-means++", "random"])
    if algorithm == "bisecting":
        params["split"] = trial.suggest_categorical("split", ["biggest_inertia", "largest_cluster"])
    return params


def name_sides(clusters: Clusters, scores: Scores) -> dict[int, int]:
    """Each cluster's side: open where the mean P(open) of its crops is above that of all, noise left out; else closed.

    A network from elsewhere may favour one side on crops of this kind, so that every cluster's mean is on that side of
    0.5. Which of two crops it finds more open still tells.

    Args:
        clusters: (N,) of any clustering.
        scores: (N,) P(open) by a network that was not trained on these crops.
    """
    inside = clusters != NOISE
    middle = scores[inside].mean() if inside.any() else 0.5
    return {
        int(cluster): OPEN if scores[clusters == cluster].mean() > middle else CLOSED
        for cluster in np.unique(clusters[inside])
    }


def sides(clusters: Clusters, names: Mapping[int, int]) -> Clusters:
    """The side of each crop (N,): 0 closed, 1 open, ``UNDECIDED`` for noise."""
    return np.array([names.get(int(cluster), UNDECIDED) for cluster in clusters], dtype=np.int64)


def appearance(crops: Sequence[Crop]) -> dict[str, Scores]:
    """What a clustering may follow instead of open and closed, (N,) each, from the pixels alone.

    ``brightness``: mean grey; ``contrast``: standard deviation of grey; ``light from the left``: how much brighter the
    left half is, which a nose or a lamp makes.
    """
    pixels = np.stack([to_input(decode(crop.data), FAR_SIDE) for crop in crops]).astype(np.float64)
    half = FAR_SIDE // 2
    return {
        "brightness": pixels.mean(axis=(1, 2)),
        "contrast": pixels.std(axis=(1, 2)),
        "light from the left": pixels[:, :, :half].mean(axis=(1, 2)) - pixels[:, :, half:].mean(axis=(1, 2)),
    }


def explained(clusters: Clusters, values: Scores) -> float:
    """How much of the ranks of ``values`` (N,) the clusters explain, 0 to 1; noise is left out.

    The effect size of the Kruskal–Wallis test, its H over N - 1 (Tomczak & Tomczak 2014): 0 where every cluster has
    the same mean rank. It takes any number of clusters and does not depend on their names.
    """
    inside = clusters != NOISE
    groups = [values[clusters == cluster] for cluster in np.unique(clusters[inside])]
    if len(groups) < 2 or np.ptp(values[inside]) == 0:
        return 0.0
    return float(kruskal(*groups).statistic / (inside.sum() - 1))


def row(clustering: Clustering, scores: Scores, appearances: Mapping[str, Scores]) -> dict[str, Any]:
    """What a table says of a clustering, as JSON can hold it.

    ``explains`` has ``explained`` of P(open) and of each appearance, ``follows`` the one that comes first.
    """
    names = name_sides(clustering.clusters, scores)
    explains = {
        name: round(explained(clustering.clusters, values), 4)
        for name, values in {"p_open": scores, **appearances}.items()
    }
    return {
        "name": clustering.name,
        "feature": clustering.feature,
        "algorithm": clustering.algorithm,
        "tuned": clustering.tuned,
        "params": clustering.params,
        "silhouette": clustering.silhouette,
        "n_clusters": len(clustering.sizes),
        "sizes": clustering.sizes,
        "noise": clustering.noise,
        "admissible": admissible(clustering),
        "mean_p_open": [round(float(scores[clustering.clusters == cluster].mean()), 4) for cluster in names],
        "sides": list(names.values()) if len(set(names.values())) == 2 else None,
        "explains": explains,
        "follows": max(explains, key=lambda name: explains[name]),
    }


def mark_good(rows: Sequence[dict[str, Any]], within: float) -> list[dict[str, Any]]:
    """The rows, each with ``good`` and, where it is not, ``why_not``.

    Good is a clustering that was tuned, is ``admissible``, separates (has clusters on both sides), follows P(open)
    rather than how the crops are lit, and whose silhouette is at least ``within`` of the best such clustering's on the
    same features. No label of the crops is used.
    """

    def fault(row: Mapping[str, Any]) -> str | None:
        if not row["tuned"]:
            return "not tuned"
        if not row["admissible"]:
            return f"fewer than two clusters with {MIN_SHARE:.0%} of the crops each, or over {MAX_NOISE:.0%} noise"
        if row["sides"] is None:
            return "does not separate: every cluster has the same mean P(open)"
        if row["follows"] != "p_open":
            return f"follows {row['follows']} rather than P(open)"
        return None

    best: dict[str, float] = {}
    for candidate in rows:
        if fault(candidate) is None:
            best[candidate["feature"]] = max(best.get(candidate["feature"], -1), candidate["silhouette"])
    marked = []
    for candidate in rows:
        why_not = fault(candidate)
        if why_not is None:
            top = best[candidate["feature"]]
            if candidate["silhouette"] < (within * top if top > 0 else top):
                why_not = f"silhouette under {within:g} of the best on these features"
        marked.append(candidate | {"good": why_not is None, "why_not": why_not})
    return marked


def maps(space: Space) -> dict[str, Points]:
    """The crops in two dimensions (N, 2), for the eye only: ``pca``, and ``tsne`` (van der Maaten & Hinton 2008)."""
    compact = space.prepared("none", 64)
    perplexity = min(30, (len(compact) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=space.seed)
    return {"pca": space.prepared("none", 2), "tsne": np.asarray(tsne.fit_transform(compact))}


def not_measured(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row, marked so, for each clustering that could not be made for want of features."""
    return [
        {
            "name": f"{entry['name']}-{algorithm}-{kind}",
            "feature": entry["name"],
            "algorithm": algorithm,
            "tuned": kind == "tuned",
            "good": False,
            "why_not": entry["status"],
            "sides": None,
        }
        for entry in entries
        if entry["status"] != MEASURED
        for kind in ("default", "tuned")
        for algorithm in ALGORITHMS
    ]


def best(rows: Sequence[Mapping[str, Any]], feature: str) -> str:
    """The name of the clustering to show of a feature set: a good one before others, then by silhouette."""
    of_feature = [item for item in rows if item["feature"] == feature]
    chosen = max(of_feature, key=lambda item: (item["good"], item["admissible"], item["silhouette"] or -1))
    return str(chosen["name"])
