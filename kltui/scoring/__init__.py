"""One checkpoint and a corpus in, log-likelihood vectors out."""

from kltui.scoring.settings import Progress, ScoreResult, ScoringSettings, Vector

__all__ = ["Progress", "ScoreResult", "ScoringSettings", "Vector"]
