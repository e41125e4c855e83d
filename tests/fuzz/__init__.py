"""Coverage-guided fuzzing of everything that reads files from outside: `python -m tests.fuzz --inputs 100000`.

Atheris drives two processes, one with annotation files and one with image files, towards code of `seg` that no input
has reached yet. Both parsers end in C code (pycocotools, OpenCV), which may kill its process or never return; the
parent sees that, saves the input and names the command that replays it.
"""
