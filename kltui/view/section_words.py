"""The sections of a report in order, with their descriptions, in a module that imports nothing."""

from __future__ import annotations

WORDS: dict[str, str] = {
    "overview": "counts, runs, corpora, scoring settings, failures",
    "loss": "first, last and lowest loss of each run, and curves",
    "kl": "KL between the runs' final checkpoints, with errors",
    "consecutive": "KL between neighbouring checkpoints along each run",
    "stabilisation": "the step after which a run has settled",
    "scale": "medians and quartiles beside the published ones",
    "where": "where one KL lies on the scale",
    "neighbours": "the nearest checkpoints, and a tree of the last ones",
    "tree": "trees with the support of forks; probable parents",
    "trajectories": "t-SNE, PCA and MDS of all vectors; shapes of runs",
    "uncertainty": "error ellipses of the map from resampled texts",
    "diffusion": "exponents of each run, in likelihood and weight space",
    "layers": "KL from layer to layer",
    "quantisation": "KL to quantised variants, and their direction",
    "interpolation": "KL and loss between models",
    "drivers": "the texts and domains behind one KL",
    "directions": "which domains training moved towards",
    "corpora": "the same KLs on every corpus, and their agreement",
    "exact": "exact next-token KLs compared with the estimates",
    "resampling": "error of KLs by number of texts",
    "added": "models scored only on drawn texts",
    "benchmark": "scores predicted from the map",
    "leakage": "models with high likelihood for their scores",
}

USED_BY: dict[str, frozenset[str]] = {
    "pair": frozenset({"where", "tree", "layers", "drivers", "directions", "corpora", "exact"}),
    "where": frozenset({"where"}),
    "level": frozenset({"stabilisation"}),
    "noise_corrected": frozenset({"diffusion"}),
}
"""{a choice of the user for one report: the sections that show something else with it}"""
