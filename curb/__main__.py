"""`python -m curb`: the command line."""

from curb.cli.main import main

if __name__ == "__main__":
    main()
