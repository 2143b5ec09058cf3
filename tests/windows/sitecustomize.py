"""Makes every Python process under this PYTHONPATH refuse what Windows refuses, so far as that can be played on Linux.

The package's own modules and notebooks see a system without POSIX's modules and functions. Everybody sees the rules for
files: one that is open can't be replaced, renamed or deleted, there are no links, and text is cp1252 by default.
"""
import builtins
import errno
import importlib
import io
import os
import stat
import subprocess
import types

MISSING = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "readline", "syslog"}
LACKS = {
    "os": {"fork", "forkpty", "mkfifo", "mknod", "getuid", "geteuid", "getgid", "getpgid", "setpgid", "setsid",
           "sched_getaffinity", "uname", "statvfs", "chown", "fchmod", "sysconf", "confstr", "getloadavg", "nice",
           "wait", "killpg", "pread", "pwrite", "posix_fallocate", "openpty",
           "O_NONBLOCK", "O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC"},
    "signal": {"SIGKILL", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGPIPE", "alarm", "setitimer"},
    "socket": {"AF_UNIX"},
    "time": {"tzset", "clock_gettime"},
}
SAYS = {"os": {"name": "nt"}, "sys": {"platform": "win32"}}
OURS = ("genre_study", "__main__")


class Facade(types.ModuleType):
    """A module as Windows has it."""

    def __init__(self, real, lacks, says):
        self.__dict__.update(_real=real, _lacks=lacks, _says=says)

    def __getattr__(self, name):
        if name in self._lacks:
            raise AttributeError(f"module {self._real.__name__!r} has no attribute {name!r} on Windows")
        return self._says[name] if name in self._says else getattr(self._real, name)

    def __setattr__(self, name, value):
        setattr(self._real, name, value)

    def __reduce__(self):
        return importlib.import_module, (self._real.__name__,)  # a worker gets the real one

    def __dir__(self):
        return sorted(set(dir(self._real)) - self._lacks)


FACADES = {}
real_import = builtins.__import__


def windows_import(name, globals=None, locals=None, fromlist=(), level=0):
    """Import as usual, but for the package's own modules, which get what Windows has."""
    importer = (globals or {}).get("__name__") or ""
    if level == 0 and importer.partition(".")[0] in OURS:
        if name in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r} on Windows", name=name)
        module = real_import(name, globals, locals, fromlist, level)
        if name in LACKS or name in SAYS:
            return FACADES.setdefault(name, Facade(module, LACKS.get(name, set()), SAYS.get(name, {})))
        return module
    return real_import(name, globals, locals, fromlist, level)


def is_open(path):
    """Tell whether this process has a file open or mapped; a folder counts if a file inside it does."""
    try:
        what = os.lstat(path)
        if stat.S_ISLNK(what.st_mode):
            return False
        real = os.path.realpath(path)
        held = {os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")
                if os.path.lexists(f"/proc/self/fd/{number}")}
    except OSError:
        return False
    return any(name == real or name.startswith(real + "/") for name in held)


def refusing(call, n_paths):
    """Refuse a call while one of its first paths is open."""
    def refuse(*paths, **options):
        for path in paths[:n_paths]:
            if not isinstance(path, int) and options.get("dir_fd") is None and is_open(path):
                raise PermissionError(errno.EACCES, "The process cannot access the file because it is being used", path)
        return call(*paths, **options)
    return refuse


real_fsync, real_rename, real_open, real_popen = os.fsync, os.rename, io.open, subprocess.Popen.__init__


def fsync(handle):
    """Flush a file, if it is open to write."""
    number = handle if isinstance(handle, int) else handle.fileno()
    with real_open(f"/proc/self/fdinfo/{number}", encoding="ascii") as facts:
        flags = int(next(line for line in facts if line.startswith("flags:")).split()[1], 8)
    if flags & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "Bad file descriptor: FlushFileBuffers needs a handle to write")
    real_fsync(handle)


def rename(source, target, **options):
    """Rename, unless there is something in the way."""
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, "Cannot create a file when that file already exists", source, None, target)
    refusing(real_rename, 1)(source, target, **options)


def replacing(call):
    """Replace a file unless it is open; a folder is never replaced."""
    def replace(source, target, **options):
        if os.path.isdir(target):
            raise PermissionError(errno.EACCES, "Access is denied", source, None, target)
        refusing(call, 2)(source, target, **options)
    return replace


def opening(file, mode="r", buffering=-1, encoding=None, *rest, **options):
    """Open a file; text is cp1252."""
    if "b" not in mode and encoding in (None, "locale"):
        encoding = "cp1252"
    if isinstance(file, (str, os.PathLike)) and os.path.isdir(file) and not options.get("opener"):
        raise PermissionError(errno.EACCES, "Permission denied", file)
    return real_open(file, mode, buffering, encoding, *rest, **options)


def popen(self, *arguments, pass_fds=(), preexec_fn=None, **options):
    """Start a process that inherits nothing."""
    if pass_fds or preexec_fn:
        raise ValueError("pass_fds and preexec_fn are not supported on Windows platforms")
    real_popen(self, *arguments, **options)


def symlink(*_, **__):
    """Refuse, as to any user who is not an administrator."""
    raise OSError(errno.EPERM, "A required privilege is not held by the client")


builtins.__import__ = windows_import
builtins.open = io.open = opening
os.fsync, os.rename, os.replace, os.symlink = fsync, rename, replacing(os.replace), symlink
os.unlink = os.remove = refusing(os.unlink, 1)
subprocess.Popen.__init__ = popen
del os.link
