"""Serve an exported model or a run over HTTP: POST /predict, GET /model, /health, /metrics, /openapi.json, and a page to try it at /.

Ctrl-C or SIGTERM finishes accepted requests, then ends.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

from lmf_multitask.command_line import CommandParser, run
from lmf_multitask.deployment.options import add_model_options
from lmf_multitask.errors import ConfigError, RunError
from lmf_multitask.runtime import tune_cpu


def main(arguments: Sequence[str]) -> None:
    """Parses, loads the model, serves until it is stopped."""
    parser = CommandParser(prog="lmf serve", description=__doc__)
    add_model_options(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default: this machine only")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one; default: 8000")
    parser.add_argument(
        "--allowed_hosts",
        nargs="+",
        metavar="NAME",
        default=[],
        help="further host names in the Host header of requests, * for any; default: --host and localhost",
    )
    parser.add_argument(
        "--max_body", type=int, default=16 * 2**20, metavar="BYTES", help="of one request; default: 16 MiB"
    )
    parser.add_argument(
        "--max_json", type=int, default=2**20, metavar="BYTES", help="of one request in JSON; default: 1 MiB"
    )
    parser.add_argument("--max_rows", type=int, default=1024, metavar="N", help="clips per request; default: 1024")
    parser.add_argument("--max_queue", type=int, default=8192, metavar="N", help="clips that may wait; default: 8192")
    options = parser.parse_args(arguments)

    missing = [name for name in ("fastapi", "uvicorn", "prometheus_client") if importlib.util.find_spec(name) is None]
    if missing:
        raise RunError(
            f"the service must have {', '.join(missing)}, but it is not installed. Install it: pip install 'lmf_multitask[serve]'."
        )
    if not 0 <= options.port < 65536:
        raise ConfigError(f"--port must be from 0 to 65535, but got {options.port}.")
    tune_cpu(threads=options.threads)
    from lmf_multitask.deployment.bodies import Limits
    from lmf_multitask.deployment.predictor import Predictor
    from lmf_multitask.deployment.server import serve
    from lmf_multitask.deployment.service import allowed_names, create_app

    limits = Limits(options.max_body, min(options.max_json, options.max_body), options.max_rows, options.max_queue)
    predictor = Predictor(options.model_dir, options.backend, options.device, options.threads)
    app = create_app(predictor, limits, allowed_names(options.host, options.allowed_hosts))
    serve(app, options.host, options.port)


if __name__ == "__main__":
    sys.exit(run(main))
