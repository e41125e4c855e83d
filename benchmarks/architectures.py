"""How large each architecture is, as the table of docs/architectures.md.

python -m benchmarks.architectures [--image_size 256] [--filters 16] [--depth 4]
"""

import argparse

import keras

from seg.config import ARCHITECTURES, ENCODERS, WITH_ENCODER, TrainConfig
from seg.models import build_model
from seg.models.cost import multiply_adds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image_size", type=int, default=256)
    parser.add_argument("--filters", type=int, default=16)
    parser.add_argument("--depth", type=int, default=4)
    sizes = vars(parser.parse_args())
    print("| architecture | encoder | parameters | multiply-adds per image |")
    print("|---|---|---|---|")
    for architecture in ARCHITECTURES:
        for encoder in ENCODERS if architecture in WITH_ENCODER else ("none",):
            model = build_model(TrainConfig(architecture=architecture, encoder=encoder, **sizes))
            cost = f"{model.count_params():,} | {multiply_adds(model) / 1e9:.2f} billion"
            print(f"| `{architecture}` | `{encoder}` | {cost} |", flush=True)
            keras.backend.clear_session()


if __name__ == "__main__":
    main()
