#!/usr/bin/python3.11 -IS
"""Exit code 0 while the Ray node of this container is alive, and on the head the cluster's control store too.

Ray's agent on every node answers this one path without a token. `ray health-check` asks the head alone, from a worker
too, and takes seconds to start.
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
