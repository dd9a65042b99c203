"""Training: heads that are solved, stages that are trained in steps, validation and calibration.

`trainer.fit` trains a phase and keeps the best epoch; `loop` takes the steps; `logistic_regression`
solves a head; `calibration` fits the temperature.
"""
