"""Runs every benchmark, one after the other, in under 90 seconds: `python -m benchmarks`."""

from __future__ import annotations

from benchmarks import daemon, pipeline


def main() -> None:
    """Each with its defaults; run one as a module of its own for its options."""
    print("# Pipeline\n", flush=True)
    pipeline.main([])
    print("\n# Daemon\n", flush=True)
    daemon.main([])


if __name__ == "__main__":
    main()
