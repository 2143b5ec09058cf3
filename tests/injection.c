/* Preloaded into a process, this lets the n-th change to a folder fail, or ends the process there. See injection.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX];
static atomic_int n_changes;
static int number, error, forever, log_descriptor = -1;

/* number: the change that fails, from 1 on, 0 for none; error: an errno, or -1 for death; forever: all later changes fail too. */
void injection_arm(const char *below, int number_, int error_, int forever_, int log_) {
    strncpy(folder, below, PATH_MAX - 1);
    number = number_, error = error_, forever = forever_, log_descriptor = log_;
    n_changes = 0;
}

/* A child of an armed process that starts another program is armed by its environment, and counts for itself. */
__attribute__((constructor)) static void arm_from_environment(void) {
    const char *below = getenv("INJECTION_FOLDER"), *n = getenv("INJECTION_NUMBER"), *e = getenv("INJECTION_ERROR");
    if (below && n && e) injection_arm(below, atoi(n), atoi(e), getenv("INJECTION_FOREVER") != 0, -1);
}

static void die(void) { syscall(SYS_kill, getpid(), SIGKILL); for (;;) pause(); }

static int is_inside(int at, const char *path) {
    char base[PATH_MAX] = "", link[64], whole[2 * PATH_MAX];
    if (!folder[0] || !path) return 0;
    if (path[0] != '/') {
        if (at == AT_FDCWD) { if (!getcwd(base, sizeof base)) return 0; }
        else { snprintf(link, sizeof link, "/proc/self/fd/%d", at); ssize_t n = readlink(link, base, sizeof base - 1); if (n < 0) return 0; base[n] = 0; }
        snprintf(whole, sizeof whole, "%s/%s", base, path);
    } else snprintf(whole, sizeof whole, "%s", path);
    return !strncmp(whole, folder, strlen(folder));
}

static int is_file_inside(int descriptor) {
    char link[64], path[PATH_MAX];
    if (!folder[0] || descriptor == log_descriptor) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return is_inside(AT_FDCWD, path);
}

/* 0: go on; 1: fail with errno; 2: die, after half of it where there are halves. */
static int fate(const char *name, const char *path) {
    int mine = atomic_fetch_add(&n_changes, 1) + 1;
    if (log_descriptor >= 0) {
        char line[PATH_MAX + 64];
        int n = snprintf(line, sizeof line, "%s %s\n", name, path ? path : "");
        syscall(SYS_write, log_descriptor, line, (size_t)n);
    }
    if (!number || (forever ? mine < number : mine != number)) return 0;
    if (error < 0) return 2;
    errno = error;
    return 1;
}

#define REAL(name) static __typeof__(name) *real; if (!real) real = dlsym(RTLD_NEXT, #name)
#define STOP(name, path) do { int f = fate(name, path); if (f == 1) return -1; if (f == 2) die(); } while (0)

ssize_t write(int d, const void *data, size_t n) {
    REAL(write);
    if (is_file_inside(d)) { int f = fate("write", 0); if (f == 1) return -1; if (f == 2) { real(d, data, n / 2); die(); } }
    return real(d, data, n);
}
ssize_t pwrite64(int d, const void *data, size_t n, off64_t at) {
    REAL(pwrite64);
    if (is_file_inside(d)) { int f = fate("pwrite", 0); if (f == 1) return -1; if (f == 2) { real(d, data, n / 2, at); die(); } }
    return real(d, data, n, at);
}
ssize_t pwrite(int d, const void *data, size_t n, off_t at) { return pwrite64(d, data, n, at); }
ssize_t writev(int d, const struct iovec *parts, int n) {
    REAL(writev);
    if (is_file_inside(d)) { int f = fate("writev", 0); if (f == 1) return -1; if (f == 2) { real(d, parts, n / 2); die(); } }
    return real(d, parts, n);
}
int fsync(int d) { REAL(fsync); if (is_file_inside(d)) STOP("fsync", 0); return real(d); }
int fdatasync(int d) { REAL(fdatasync); if (is_file_inside(d)) STOP("fsync", 0); return real(d); }
int ftruncate64(int d, off64_t n) { REAL(ftruncate64); if (is_file_inside(d)) STOP("truncate", 0); return real(d, n); }
int ftruncate(int d, off_t n) { return ftruncate64(d, n); }
int rename(const char *a, const char *b) { REAL(rename); if (is_inside(AT_FDCWD, a) || is_inside(AT_FDCWD, b)) STOP("rename", b); return real(a, b); }
int renameat(int da, const char *a, int db, const char *b) {
    REAL(renameat); if (is_inside(da, a) || is_inside(db, b)) STOP("rename", b); return real(da, a, db, b);
}
int link(const char *a, const char *b) { REAL(link); if (is_inside(AT_FDCWD, b)) STOP("link", b); return real(a, b); }
int linkat(int da, const char *a, int db, const char *b, int flags) { REAL(linkat); if (is_inside(db, b)) STOP("link", b); return real(da, a, db, b, flags); }
int symlink(const char *a, const char *b) { REAL(symlink); if (is_inside(AT_FDCWD, b)) STOP("link", b); return real(a, b); }
int unlink(const char *path) { REAL(unlink); if (is_inside(AT_FDCWD, path)) STOP("unlink", path); return real(path); }
int unlinkat(int d, const char *path, int flags) { REAL(unlinkat); if (is_inside(d, path)) STOP("unlink", path); return real(d, path, flags); }
int rmdir(const char *path) { REAL(rmdir); if (is_inside(AT_FDCWD, path)) STOP("rmdir", path); return real(path); }
int mkdir(const char *path, mode_t mode) { REAL(mkdir); if (is_inside(AT_FDCWD, path)) STOP("mkdir", path); return real(path, mode); }
int mkdirat(int d, const char *path, mode_t mode) { REAL(mkdirat); if (is_inside(d, path)) STOP("mkdir", path); return real(d, path, mode); }

static int is_change(int d, const char *path, int flags) { return flags & (O_CREAT | O_TRUNC) && is_inside(d, path); }
#define MODE(flags) mode_t mode = 0; if ((flags) & (O_CREAT | O_TMPFILE)) { va_list list; va_start(list, flags); mode = va_arg(list, mode_t); va_end(list); }
int open(const char *path, int flags, ...) { MODE(flags); REAL(open); if (is_change(AT_FDCWD, path, flags)) STOP("create", path); return real(path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags); REAL(open64); if (is_change(AT_FDCWD, path, flags)) STOP("create", path); return real(path, flags, mode); }
int openat(int d, const char *path, int flags, ...) { MODE(flags); REAL(openat); if (is_change(d, path, flags)) STOP("create", path); return real(d, path, flags, mode); }
int openat64(int d, const char *path, int flags, ...) { MODE(flags); REAL(openat64); if (is_change(d, path, flags)) STOP("create", path); return real(d, path, flags, mode); }
