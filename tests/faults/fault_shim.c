/* Preloaded into a process: makes the file system under a folder fail, and records what was written and synced there.

   FAULT_FOLDER       path prefix of the files concerned
   FAULT_READ_ONLY    set: opening or making files there for writing fails with EROFS
   FAULT_NO_SYNC      set: syncs there cost nothing (a kill does not need them; the counts stand)
   FAULT_TRACE        file that gets one record per call there, and per write to standard output:
                      "W path offset length\n" + data, "T path size\n", "S path\n", "U path\n", "A length\n" + data

   fault_arm(n, error, once) makes the n-th write, truncation or sync from then on fail with `error`; with once = 0 all
   that follow fail too. fault_count() says how many there were since. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static long armed, count;
static int failure, only_once;

void fault_arm(long n, int error, int once) {
    armed = n;
    failure = error;
    only_once = once;
    count = 0;
}

long fault_count(void) { return count; }

static int concerns_path(const char* path) {
    const char* folder = getenv("FAULT_FOLDER");
    return folder && path && strncmp(path, folder, strlen(folder)) == 0;
}

static int path_of(int fd, char* path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, size - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return concerns_path(path);
}

static void record(const char* head, const void* data, size_t size) {
    const char* name = getenv("FAULT_TRACE");
    if (!name) return;
    int saved = errno;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, name, O_WRONLY | O_CREAT | O_APPEND, 0600);
    size_t n = strlen(head);
    char* whole = malloc(n + size);
    memcpy(whole, head, n);
    if (size) memcpy(whole + n, data, size);
    syscall(SYS_write, fd, whole, n + size);
    syscall(SYS_close, fd);
    free(whole);
    errno = saved;
}

static int fails(void) {
    ++count;
    if (!armed || count < armed || (only_once && count > armed)) return 0;
    errno = failure;
    return 1;
}

static ssize_t written(int fd, const void* data, off_t offset, ssize_t done) {
    char path[4096], head[4200];
    if (done > 0 && path_of(fd, path, sizeof path)) {
        snprintf(head, sizeof head, "W %s %lld %lld\n", path, (long long)offset, (long long)done);
        record(head, data, (size_t)done);
    }
    return done;
}

ssize_t write(int fd, const void* data, size_t size) {
    char path[4096], head[64];
    if (fd == 1) {
        ssize_t done = syscall(SYS_write, fd, data, size);
        snprintf(head, sizeof head, "A %lld\n", (long long)done);
        if (done > 0) record(head, data, (size_t)done);
        return done;
    }
    if (path_of(fd, path, sizeof path) && fails()) return -1;
    off_t offset = (off_t)syscall(SYS_lseek, fd, 0, SEEK_CUR);
    return written(fd, data, offset, syscall(SYS_write, fd, data, size));
}

ssize_t pwrite64(int fd, const void* data, size_t size, off64_t offset) {
    char path[4096];
    if (path_of(fd, path, sizeof path) && fails()) return -1;
    return written(fd, data, offset, syscall(SYS_pwrite64, fd, data, size, offset));
}

ssize_t pwrite(int fd, const void* data, size_t size, off_t offset) { return pwrite64(fd, data, size, offset); }

static int cut(int fd, off_t size) {
    char path[4096], head[4200];
    int mine = path_of(fd, path, sizeof path);
    if (mine && fails()) return -1;
    int result = (int)syscall(SYS_ftruncate, fd, size);
    if (mine && result == 0) {
        snprintf(head, sizeof head, "T %s %lld\n", path, (long long)size);
        record(head, 0, 0);
    }
    return result;
}

int ftruncate(int fd, off_t size) { return cut(fd, size); }
int ftruncate64(int fd, off64_t size) { return cut(fd, size); }

static int synced(int fd, long call) {
    char path[4096], head[4200];
    int mine = path_of(fd, path, sizeof path);
    if (mine && fails()) return -1;
    int result = mine && getenv("FAULT_NO_SYNC") ? 0 : (int)syscall(call, fd);
    if (mine && result == 0) {
        snprintf(head, sizeof head, "S %s\n", path);
        record(head, 0, 0);
    }
    return result;
}

int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

int unlink(const char* path) {
    char head[4200];
    if (concerns_path(path) && getenv("FAULT_READ_ONLY")) {
        errno = EROFS;
        return -1;
    }
    int result = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (result == 0 && concerns_path(path)) {
        snprintf(head, sizeof head, "U %s\n", path);
        record(head, 0, 0);
    }
    return result;
}

static int refuses(const char* path, int flags) {
    if (!getenv("FAULT_READ_ONLY") || !concerns_path(path)) return 0;
    if ((flags & O_ACCMODE) == O_RDONLY && !(flags & O_CREAT)) return 0;
    errno = EROFS;
    return 1;
}

#define OPEN(name)                                                        \
    int name(const char* path, int flags, ...) {                          \
        va_list rest;                                                     \
        va_start(rest, flags);                                            \
        int mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, int) : 0; \
        va_end(rest);                                                     \
        if (refuses(path, flags)) return -1;                              \
        return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);     \
    }
OPEN(open)
OPEN(open64)

int access(const char* path, int mode) {
    if ((mode & W_OK) && getenv("FAULT_READ_ONLY") && concerns_path(path)) {
        errno = EROFS;
        return -1;
    }
    return (int)syscall(SYS_faccessat, AT_FDCWD, path, mode);
}

int mkdir(const char* path, mode_t mode) {
    struct stat seen;
    if (getenv("FAULT_READ_ONLY") && concerns_path(path) && stat(path, &seen) != 0) {
        errno = EROFS;
        return -1;
    }
    return (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}
