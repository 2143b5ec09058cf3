"""Jobs that are killed while they work. Imports take longer than such a job, so one process has them done and forks."""
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

LOOP = """
import os, sys
for line in sys.stdin:
    child = os.fork()
    if not child:
        status = 1
        try:
            job(line)
            status = 0
        finally:
            os._exit(status)
    print(child, flush=True)
    sys.stdin.readline()  # until it is waited for, a dead child keeps its number, so no stranger can be killed
    print(os.waitpid(child, 0)[1], flush=True)
"""


@contextmanager
def forked(setup, *arguments):
    """Yield (line, wait): a fork runs `job(line)` of `setup` and is killed when wait(pid) returns; give its status."""
    server = subprocess.Popen([sys.executable, "-W", "ignore", "-c", setup + LOOP, *arguments], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)

    def run(line, wait):
        print(line, file=server.stdin, flush=True)
        child = int(server.stdout.readline())
        wait(child)
        os.kill(child, signal.SIGKILL)
        print("reap", file=server.stdin, flush=True)
        return int(server.stdout.readline())

    yield run
    server.stdin.close()
    server.wait()
