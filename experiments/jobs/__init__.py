"""What runs in a process of its own, and what it says to the driver: training, evaluation, measurements."""
