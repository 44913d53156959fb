"""Start a command and print what it took as JSON: `python scale_child.py COMMAND…`.

A process of its own, which imports next to nothing: the kernel counts the memory of the process that starts a command
into the command's peak.
"""

import json
import os
import sys
import time

start = time.perf_counter()
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
_, status, used = os.wait4(pid, 0)
seconds = time.perf_counter() - start
answer = {"code": os.waitstatus_to_exitcode(status), "seconds": seconds, "cpu": used.ru_utime + used.ru_stime}
print(json.dumps({**answer, "peak": used.ru_maxrss * 1024}))
