"""Exact one-to-one assignment of large dictionaries, with a proof of optimality."""

from saereg_plugin.metrics.assignment.certificate import Certificate, certify
from saereg_plugin.metrics.assignment.solve import Assignment, assign
from saereg_plugin.metrics.assignment.weights import DenseWeights, RowWeights, Weights

__all__ = [
    "Assignment",
    "Certificate",
    "DenseWeights",
    "RowWeights",
    "Weights",
    "assign",
    "certify",
]
