"""``python -m iseparate`` is ``iseparate``."""

from iseparate.cli import main

if __name__ == "__main__":
    main()
