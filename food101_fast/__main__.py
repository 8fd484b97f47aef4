"""`python -m food101_fast COMMAND` is the script `food101-fast COMMAND`."""

from food101_fast.cli import main

if __name__ == "__main__":
    main()
