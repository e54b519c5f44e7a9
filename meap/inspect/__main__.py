"""Show samples of prepared shards, masked as in training: ``python -m meap.inspect <shards>``, see --help."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import nullcontext

from meap.config.command import announce, report_errors
from meap.inspect.arguments import Request, parse_arguments
from meap.processes import leave

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, see `meap.config.run_command`."""
    return report_errors(lambda: _show(parse_arguments(argv)))


def _show(request: Request) -> None:
    announce("meap.inspect", "torch and streaming")

    from meap.inspect.page import write_page
    from meap.inspect.samples import open_data
    from meap.inspect.statistics import measure
    from meap.inspect.terminal import print_samples
    from meap.places.addresses import use_one_s3_endpoint

    use_one_s3_endpoint()
    temporary = tempfile.TemporaryDirectory(prefix="meap-inspect-", ignore_cleanup_errors=True)
    with nullcontext(request.cache_dir) if request.cache_dir else temporary as cache_dir:
        data = open_data(request, cache_dir)
        samples = [data.sample(number) for number in data.choose_samples(request)]
        if request.html is not None:
            write_page(request.html, data, samples, measure(data, samples, extra_shards=request.stats_shards))
    print_samples(data, samples, color=request.color)


if __name__ == "__main__":
    leave(main())
