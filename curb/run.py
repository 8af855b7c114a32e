"""`curb run`: a daemon between signals and an exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import signal

from curb.config.file import CurbConfig
from curb.daemon import Daemon
from curb.stream.errors import PermanentError, TransientError

logger = logging.getLogger(__name__)


async def run_daemon(config: CurbConfig) -> int:
    """Run until SIGTERM or SIGINT. 0 after a clean drain, 1 when a part failed or the daemon could not start."""
    # Usage, alerts and plans are for this user alone.
    os.umask(0o077)
    daemon = Daemon(config)
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, daemon.stop)
    try:
        await daemon.open()
        await daemon.run()
    except (PermanentError, TransientError, OSError) as error:
        logger.error("stopped", extra={"error": str(error)})
        return 1
    except Exception:  # the last line of defence: say what broke, then let the supervisor start again
        logger.exception("stopped by a defect")
        return 1
    finally:
        await daemon.close()
    logger.info("stopped")
    return 0
