"""Evaluation of place recognition: recall@N and its uncertainty, distances, confidence, and comparisons of models."""

from d2vpr_hf.evaluation.comparison import Comparison, Difference, compare_evaluations
from d2vpr_hf.evaluation.confidence import PrecisionCurve, precision_curve
from d2vpr_hf.evaluation.descriptor_evaluation import evaluate_descriptors
from d2vpr_hf.evaluation.encoder_info import EncoderInfo
from d2vpr_hf.evaluation.evaluate import (
    evaluate,
    evaluate_data_set,
    evaluate_descriptor_files,
    evaluate_descriptor_sets,
    evaluate_query_sets,
)
from d2vpr_hf.evaluation.positives import NearbyPositives, PhotoSet, PositiveRule, Positives
from d2vpr_hf.evaluation.recall import RECALL_VALUES, bootstrap_interval, recall_at
from d2vpr_hf.evaluation.report import Evaluation, Predictions, QueryResult
from d2vpr_hf.evaluation.sequence_rule import SequenceRule

__all__ = [
    "RECALL_VALUES",
    "Comparison",
    "Difference",
    "EncoderInfo",
    "Evaluation",
    "NearbyPositives",
    "PhotoSet",
    "PositiveRule",
    "Positives",
    "PrecisionCurve",
    "Predictions",
    "QueryResult",
    "SequenceRule",
    "bootstrap_interval",
    "compare_evaluations",
    "evaluate",
    "evaluate_data_set",
    "evaluate_descriptor_files",
    "evaluate_descriptor_sets",
    "evaluate_descriptors",
    "evaluate_query_sets",
    "precision_curve",
    "recall_at",
]
