"""Trials of index parameters, as data: evaluation sets, what was measured, and which parameters are best."""

from lakehouse.vectors.trials.choosing import SweepRequest
from lakehouse.vectors.trials.evaluation import Evaluation, Queries
from lakehouse.vectors.trials.journal import TRIALS_SCHEMA, Trial, TrialJournal
from lakehouse.vectors.trials.making import EvaluationRequest
from lakehouse.vectors.trials.sweep import SweepOutcome
from lakehouse.vectors.trials.system_table import trials_table
from lakehouse.vectors.trials.trials import CacheUse, Trials

__all__ = [
    "TRIALS_SCHEMA",
    "CacheUse",
    "Evaluation",
    "EvaluationRequest",
    "Queries",
    "SweepOutcome",
    "SweepRequest",
    "Trial",
    "TrialJournal",
    "Trials",
    "trials_table",
]
