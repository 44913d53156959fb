"""A task for the tests of forked tasks: it prints what it sees, then ends as its first argument says."""

import atexit
import json
import os
import signal
import sys
import threading


def end(how):
    """Ways for a process to end."""
    match how:
        case "return":
            return
        case "text":
            sys.exit("an explanation")
        case "raise":
            raise ValueError("what went wrong")
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case code:
            sys.exit(int(code))


if __name__ == "__main__":
    atexit.register(print, "the last word")
    seen = {"arguments": sys.argv[1:], "environment": {**os.environ}, "folder": os.getcwd(), "stdin": sys.stdin.read()}
    seen["threads"] = threading.active_count()
    print(json.dumps(seen))
    print("and to the other stream", file=sys.stderr)
    end(sys.argv[1])
