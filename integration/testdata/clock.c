// A wall clock that can be set, for a server that this is loaded into before its libraries (LD_PRELOAD): it is ahead by as many seconds
// as the file that PGSAGAZ_CLOCK names holds, as eight bytes. The other clocks are as they were.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const long *ahead;

__attribute__((constructor)) static void map(void) {
    int file = open(getenv("PGSAGAZ_CLOCK"), O_RDONLY);
    void *at = mmap(NULL, sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);
    if (at == MAP_FAILED) abort();
    ahead = at;
    close(file);
}

int clock_gettime(clockid_t id, struct timespec *t) {
    int result = syscall(SYS_clock_gettime, id, t);
    if (result == 0 && id == CLOCK_REALTIME && ahead) t->tv_sec += *ahead;
    return result;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone) {
    struct timespec now;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &now);
    t->tv_sec = now.tv_sec;
    t->tv_usec = now.tv_nsec / 1000;
    return result;
}

time_t time(time_t *t) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (t) *t = now.tv_sec;
    return now.tv_sec;
}
