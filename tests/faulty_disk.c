/* A disk that fails, or that tells what is done to it: LD_PRELOAD=faulty_disk.so; disk.py builds and uses it.
 *
 * Only paths below $DISK_ROOT count, from the first call on at which that variable is set.
 * $DISK_LOG: a file outside of it, to which every change is appended (the record is described in disk.py).
 * $DISK_FAULT: "KIND NUMBER LAST ERRNO": the changes (or, for KIND "read", the reads) NUMBER to LAST, counted from 0, fail
 * with ERRNO; with ERRNO 0 only the first half of them is written or read. Where ERRNO is that of a full disk, changes
 * that need no room go well.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_length;
static int log_file = -1, fault_error, fault_reads;
static long fault_first = -1, fault_last = -1, changes, reads;

static int configured(void)
{
    if (root_length)
        return 1;
    const char *given = getenv("DISK_ROOT");
    if (!given || !*given)
        return 0;
    const char *log = getenv("DISK_LOG"), *fault = getenv("DISK_FAULT");
    if (log && *log)
        log_file = REAL(open)(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fault && *fault) {
        char kind[16];
        if (sscanf(fault, "%15s %ld %ld %d", kind, &fault_first, &fault_last, &fault_error) != 4)
            abort();
        fault_reads = !strcmp(kind, "read");
    }
    strncpy(root, given, sizeof root - 1);
    root_length = strlen(root);
    return 1;
}

static int below(const char *path)
{
    return !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

/* The absolute path of a name seen from an open folder; 0 where it does not lie below the root. */
static int place(int folder, const char *name, char *found)
{
    if (!name || !configured())
        return 0;
    if (name[0] == '/') {
        snprintf(found, PATH_MAX, "%s", name);
    } else {
        char link[64], start[PATH_MAX];
        if (folder == AT_FDCWD)
            snprintf(link, sizeof link, "/proc/self/cwd");
        else
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t length = REAL(readlink)(link, start, sizeof start - 1);
        if (length < 0)
            return 0;
        start[length] = 0;
        if (strlen(start) + strlen(name) + 2 > PATH_MAX)
            return 0;
        while (!strncmp(name, "./", 2))
            name += 2;
        strcpy(found, start);
        if (*name && strcmp(name, ".")) {
            strcat(found, "/");
            strcat(found, name);
        }
    }
    return below(found);
}

static int place_of(int file, char *found)
{
    return file >= 0 && file != log_file && place(file, "", found);
}

static uint64_t inode_of(int file)
{
    struct stat status;
    return fstat(file, &status) ? 0 : status.st_ino;
}

/* kind, inode, number, lengths of the paths and of the data; then these. */
static void tell(char kind, uint64_t inode, int64_t number, const char *path, const char *other, const void *data,
                 size_t size)
{
    if (log_file < 0)
        return;
    uint64_t head[6] = {(uint64_t)kind, inode, (uint64_t)number, strlen(path), strlen(other), size};
    struct iovec pieces[4] = {{head, sizeof head}, {(void *)path, head[3]}, {(void *)other, head[4]}, {(void *)data, size}};
    if (REAL(writev)(log_file, pieces, 4) != (ssize_t)(sizeof head + head[3] + head[4] + size))
        abort();
}

/* Whether this change is one that fails; then errno says why. `room`: whether it needs room on the disk. */
static int fails(int room)
{
    long number = changes++;
    if (fault_reads || !fault_error || number < fault_first || number > fault_last)
        return 0;
    if ((fault_error == ENOSPC || fault_error == EDQUOT) && !room)
        return 0;
    errno = fault_error;
    return 1;
}

/* So many bytes of a write or a read are done: fewer where it is one that is cut short, none where it fails. */
static ssize_t allowed(int reading, size_t size)
{
    long number = reading ? reads++ : changes++;
    if (fault_reads != reading || number < fault_first || number > fault_last)
        return size;
    if (!fault_error)
        return size > 1 ? size / 2 : size;
    errno = fault_error;
    return -1;
}

#define LOCKED(result, work)                \
    pthread_mutex_lock(&turn);              \
    int kept = errno;                       \
    errno = kept;                           \
    result = (work);                        \
    kept = errno;                           \
    pthread_mutex_unlock(&turn);            \
    errno = kept;                           \
    return result

static int do_open(int folder, const char *name, int flags, mode_t mode)
{
    char path[PATH_MAX];
    int changing = (flags & (O_CREAT | O_TRUNC)) && place(folder, name, path);
    int there = changing && REAL(access)(path, F_OK) == 0;
    if (changing && (!there || (flags & O_TRUNC)) && fails(!there))
        return -1;
    int file = REAL(openat)(folder, name, flags, mode);
    if (file >= 0 && changing) {
        if (!there)
            tell('c', inode_of(file), 0, path, "", "", 0);
        else if (flags & O_TRUNC)
            tell('t', inode_of(file), 0, path, "", "", 0);
    }
    return file;
}

static int opened(int folder, const char *name, int flags, mode_t mode)
{
    char path[PATH_MAX];
    if (!place(folder, name, path))
        return REAL(openat)(folder, name, flags, mode);
    int result;
    LOCKED(result, do_open(folder, name, flags, mode));
}

#define MODE                                    \
    mode_t mode = 0;                            \
    if (flags & (O_CREAT | __O_TMPFILE)) {      \
        va_list more;                           \
        va_start(more, flags);                  \
        mode = va_arg(more, mode_t);            \
        va_end(more);                           \
    }

int open(const char *name, int flags, ...) { MODE return opened(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE return opened(AT_FDCWD, name, flags | O_LARGEFILE, mode); }
int openat(int folder, const char *name, int flags, ...) { MODE return opened(folder, name, flags, mode); }
int openat64(int folder, const char *name, int flags, ...) { MODE return opened(folder, name, flags, mode); }

static ssize_t do_write(int file, const char *path, const void *data, size_t size, off_t offset)
{
    ssize_t left = allowed(0, size);
    if (left < 0)
        return -1;
    off_t at = offset >= 0 ? offset : lseek(file, 0, SEEK_CUR);
    if (fcntl(file, F_GETFL) & O_APPEND) {
        struct stat status;
        fstat(file, &status);
        at = status.st_size;
    }
    ssize_t done = offset < 0 ? REAL(write)(file, data, left) : REAL(pwrite)(file, data, left, offset);
    if (done > 0)
        tell('w', inode_of(file), at, path, "", data, done);
    return done;
}

/* What does not count may wait for another process, and must not hold the turn meanwhile. */
static ssize_t written(int file, const void *data, size_t size, off_t at)
{
    char path[PATH_MAX];
    if (!place_of(file, path))
        return at < 0 ? REAL(write)(file, data, size) : REAL(pwrite)(file, data, size, at);
    ssize_t result;
    LOCKED(result, do_write(file, path, data, size, at));
}

ssize_t write(int file, const void *data, size_t size) { return written(file, data, size, -1); }
ssize_t pwrite(int file, const void *data, size_t size, off_t at) { return written(file, data, size, at); }
ssize_t pwrite64(int file, const void *data, size_t size, off_t at) { return written(file, data, size, at); }

ssize_t writev(int file, const struct iovec *pieces, int count)
{
    char path[PATH_MAX];
    if (!place_of(file, path))
        return REAL(writev)(file, pieces, count);
    return count ? write(file, pieces[0].iov_base, pieces[0].iov_len) : 0;  /* the caller goes on behind it */
}

static ssize_t counted_read(size_t size)
{
    ssize_t result;
    LOCKED(result, allowed(1, size));
}

static ssize_t taken(int file, void *data, size_t size, off_t at)
{
    char path[PATH_MAX];
    ssize_t left = place_of(file, path) ? counted_read(size) : (ssize_t)size;
    if (left < 0)
        return -1;
    return at < 0 ? REAL(read)(file, data, left) : REAL(pread)(file, data, left, at);
}

ssize_t read(int file, void *data, size_t size) { return taken(file, data, size, -1); }
ssize_t pread(int file, void *data, size_t size, off_t at) { return taken(file, data, size, at); }
ssize_t pread64(int file, void *data, size_t size, off_t at) { return taken(file, data, size, at); }

/* Python then copies by reads and writes. */
ssize_t sendfile(int to, int from, off_t *at, size_t size) { (void)to, (void)from, (void)at, (void)size; errno = ENOTSOCK; return -1; }
ssize_t sendfile64(int to, int from, off_t *at, size_t size) { (void)to, (void)from, (void)at, (void)size; errno = ENOTSOCK; return -1; }

static int do_truncate(int file, off_t size)
{
    char path[PATH_MAX];
    int counts = place_of(file, path);
    if (counts && fails(0))
        return -1;
    int result = REAL(ftruncate)(file, size);
    if (counts && !result)
        tell('t', inode_of(file), size, path, "", "", 0);
    return result;
}

int ftruncate(int file, off_t size) { int result; LOCKED(result, do_truncate(file, size)); }
int ftruncate64(int file, off_t size) { int result; LOCKED(result, do_truncate(file, size)); }

static int do_flush(int file, int (*flush)(int))
{
    char path[PATH_MAX];
    int counts = place_of(file, path);
    if (counts && fails(1))
        return -1;
    int result = flush(file);
    if (counts && !result) {
        struct stat status;
        fstat(file, &status);
        tell(S_ISDIR(status.st_mode) ? 'F' : 'f', status.st_ino, 0, path, "", "", 0);
    }
    return result;
}

int fsync(int file) { int result; LOCKED(result, do_flush(file, REAL(fsync))); }
int fdatasync(int file) { int result; LOCKED(result, do_flush(file, REAL(fdatasync))); }

/* A change of names: 'r' rename, 'l' link, 'u' unlink, 'm' mkdir, 'd' rmdir. */
static int do_name(char kind, int folder, const char *name, int other_folder, const char *other, int flags, mode_t mode)
{
    char path[PATH_MAX] = "", second[PATH_MAX] = "";
    int counts = place(folder, name, path);
    if (other && place(other_folder, other, second))
        counts = 1;
    if (counts && fails(kind == 'l' || kind == 'm'))
        return -1;
    int result = -1;
    switch (kind) {
    case 'r': result = REAL(renameat)(folder, name, other_folder, other); break;
    case 'l': result = REAL(linkat)(folder, name, other_folder, other, flags); break;
    case 'u': case 'd': result = REAL(unlinkat)(folder, name, flags); break;
    case 'm': result = REAL(mkdirat)(folder, name, mode); break;
    }
    if (counts && !result)
        tell(kind, 0, 0, path, second, "", 0);
    return result;
}

#define NAMES(kind, folder, name, other_folder, other, flags, mode) \
    int result;                                                     \
    LOCKED(result, do_name(kind, folder, name, other_folder, other, flags, mode))

int rename(const char *a, const char *b) { NAMES('r', AT_FDCWD, a, AT_FDCWD, b, 0, 0); }
int renameat(int f, const char *a, int g, const char *b) { NAMES('r', f, a, g, b, 0, 0); }
int renameat2(int f, const char *a, int g, const char *b, unsigned flags) { (void)flags; NAMES('r', f, a, g, b, 0, 0); }
int link(const char *a, const char *b) { NAMES('l', AT_FDCWD, a, AT_FDCWD, b, 0, 0); }
int linkat(int f, const char *a, int g, const char *b, int flags) { NAMES('l', f, a, g, b, flags, 0); }
int unlink(const char *a) { NAMES('u', AT_FDCWD, a, 0, NULL, 0, 0); }
int unlinkat(int f, const char *a, int flags) { NAMES(flags & AT_REMOVEDIR ? 'd' : 'u', f, a, 0, NULL, flags, 0); }
int rmdir(const char *a) { NAMES('d', AT_FDCWD, a, 0, NULL, AT_REMOVEDIR, 0); }
int mkdir(const char *a, mode_t mode) { NAMES('m', AT_FDCWD, a, 0, NULL, 0, mode); }
int mkdirat(int f, const char *a, mode_t mode) { NAMES('m', f, a, 0, NULL, 0, mode); }
