"""Preloaded first by the fork server: Ctrl-C ends it and its tasks at once, not with a traceback amid their imports."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)
