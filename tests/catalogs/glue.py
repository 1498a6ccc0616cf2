"""AWS Glue as moto has it, as a process: says its port, and ends with its standard input.

moto counts the versions of a table's entry but does not compare them when the entry is changed, as Glue does
(``VersionId`` of UpdateTable). That is added here; without it no commit would notice another one.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from moto.core.exceptions import JsonRESTError
from moto.glue.responses import GlueResponse
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

_update = GlueResponse.update_table
_lock = threading.Lock()


def update_table(self: GlueResponse) -> Any:
    """Change a table's entry if it still has the version that the caller knows."""
    known = self.parameters.get("VersionId")
    with _lock:
        table = self.glue_backend.get_table(
            self.parameters["DatabaseName"], self.parameters["TableInput"]["Name"]
        )
        if known is not None and known != table.as_dict()["VersionId"]:
            raise JsonRESTError(
                "ConcurrentModificationException", "Update table failed due to concurrent modifications."
            )
        return _update(self)


if __name__ == "__main__":
    GlueResponse.update_table = update_table
    server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.port, flush=True)
    sys.stdin.read()
