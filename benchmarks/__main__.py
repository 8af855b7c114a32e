"""Runs every benchmark, one after the other, in under 90 seconds: `python -m benchmarks`."""

from __future__ import annotations

import argparse

from benchmarks import daemon, pipeline


def main() -> None:
    """Each with its defaults; run one as a module of its own for its options."""
    argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__).parse_args()
    print("# Pipeline\n", flush=True)
    pipeline.main([])
    print("\n# Daemon\n", flush=True)
    daemon.main([])


if __name__ == "__main__":
    main()
