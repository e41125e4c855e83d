"""Image segmentation: checked data, U-Net variants, exact metrics. Never imports MLflow, Optuna or a command line."""
