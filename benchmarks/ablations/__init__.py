"""Ablations of distillation, recovery and deformable aggregation on simulated streets: docs/ablations.md."""
