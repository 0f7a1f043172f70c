"""Does one job, which comes as JSON on standard input, and prints the answer as JSON."""

from __future__ import annotations

import contextlib
import gc
import json
import resource
import sys

import uvloop

from .jobs import JOBS

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
with contextlib.suppress(ValueError):
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
gc.disable()  # nothing here lives in cycles, and a pause would look like the server's
job = json.load(sys.stdin)
print(json.dumps(uvloop.run(JOBS[job.pop("job")](job))))
