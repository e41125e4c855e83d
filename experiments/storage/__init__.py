"""Optuna's storage, the only place that talks to it: studies, their trials, and who may write to them."""
