#!/usr/bin/python3.11 -IS
"""Health check: exit code 0 while the Ray node of this container is alive, and on the head the GCS too.

It asks Ray's agent, which every node has and which answers this path without a token. `ray health-check` would ask only
the head, on a worker too, and takes seconds to start.
"""

import http.client
import sys

try:
    agent = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]) if sys.argv[1:] else 52365, timeout=8)
    agent.request("GET", "/api/healthz")
    answer = agent.getresponse()
    sys.exit(0 if answer.status == 200 else f"{answer.status}: {answer.read().decode()}")
except OSError as error:
    sys.exit(f"no Ray node answers here: {error}")
