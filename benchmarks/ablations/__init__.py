"""What distillation, recovery and deformable aggregation are worth on simulated streets: docs/ablations.md."""
