/* A malloc whose blocks end at a read-only page, to be preloaded: the first write past a block's end, or before its
 * start, ends the process by SIGSEGV; what the alignment leaves free behind a block is checked when it is freed.
 * Only posix_memalign is replaced, by which torch and oneDNN allocate tensors and workspaces. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE ((size_t)4096)
#define GUARD (64 * PAGE)
#define SPAN ((size_t)1 << 45)
#define FILL 0xA5

struct head {
    size_t size, body;
    char *start;
};

extern void __libc_free(void *);
extern void *__libc_memalign(size_t, size_t);

static char *base;
static _Atomic uintptr_t next_free;

static char *map(char *at, size_t size, int access) {
    return mmap(at, size, access, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at ? MAP_FIXED : 0), -1, 0);
}

__attribute__((constructor)) static void reserve(void) {
    char *span = map(NULL, SPAN, PROT_NONE);
    if (span == MAP_FAILED) abort();
    next_free = (uintptr_t)span;
    base = span;
}

int posix_memalign(void **result, size_t alignment, size_t size) {
    if (!base) return (*result = __libc_memalign(alignment, size)) ? 0 : ENOMEM;
    size_t body = (size + PAGE - 1) / PAGE * PAGE;
    /* A head's page, a guard, the body, a guard; addresses are never used twice, so a late write is caught too. */
    char *head = (char *)atomic_fetch_add(&next_free, PAGE + GUARD + body + GUARD), *first = head + PAGE + GUARD;
    if (head + 2 * GUARD + body > base + SPAN || map(head, PAGE, PROT_READ | PROT_WRITE) == MAP_FAILED) return ENOMEM;
    map(head + PAGE, GUARD, PROT_READ);
    if (map(first, body, PROT_READ | PROT_WRITE) == MAP_FAILED) return ENOMEM;
    map(first + body, GUARD, PROT_READ);
    char *start = (char *)((uintptr_t)(first + body - size) / alignment * alignment);
    *(struct head *)head = (struct head){size, body, start};
    memset(first, FILL, start - first);
    memset(start + size, FILL, first + body - start - size);
    *result = start;
    return 0;
}

void free(void *block) {
    if (!base || (char *)block < base || (char *)block >= base + SPAN) {
        __libc_free(block);
        return;
    }
    char *first = (char *)((uintptr_t)block / PAGE * PAGE);
    struct head *head = (struct head *)(first - GUARD - PAGE);
    if (head->start != block) abort();
    for (char *at = first; at < first + head->body; at++) {
        if (at == head->start) at += head->size;
        if (at < first + head->body && (unsigned char)*at != FILL) abort();
    }
    map((char *)head, PAGE + GUARD + head->body + GUARD, PROT_NONE);
}
