"""The runner: entry points, Optuna studies, MLflow tracking. The only package that imports MLflow and Optuna."""
