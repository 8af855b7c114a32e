"""The descriptions of AWS's services are read once for the integration tests too."""

from tests.contract.conftest import services_are_read_once

__all__ = ["services_are_read_once"]
