"""``python -m mesh.cli``: the commands, where no script is on the path."""

from mesh.cli.launch import main

if __name__ == "__main__":
    main()
