"""``python -m meap`` is the command ``meap``."""

from meap.cli import start

if __name__ == "__main__":
    start()
