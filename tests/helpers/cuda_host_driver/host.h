/* What lives in the driver, and the work that waits in its streams. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int CUresult, CUdevice;
typedef uint64_t CUdeviceptr;
typedef void (*HostFunction)(void *);

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100,
       INVALID_DEVICE = 101, INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500,
       NOT_READY = 600, ILLEGAL_ADDRESS = 700, CONTEXT_IS_DESTROYED = 709, NOT_SUPPORTED = 801,
       CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901 };

static const struct { int code; const char *name, *text; } ERRORS[] = {
    {OK, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {34, "CUDA_ERROR_STUB_LIBRARY", "CUDA driver is a stub library"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {CONTEXT_IS_DESTROYED, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
     "system has unsupported display driver / cuda driver combination"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
    {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

static long setting(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text && *text ? atol(text) : otherwise;
}

static CUresult asked_to_fail(const char *call) {
    const char *text = getenv("DMCP_CUDA_FAIL");
    size_t length = strlen(call);
    if (!text || strncmp(text, call, length) || text[length] != '=') return OK;
    return atoi(text + length + 1);
}

/* ---- what lives ---- */

enum Kind { ALLOCATION, PINNED, STREAM, EVENT, GRAPH, EXECUTABLE, KINDS };
static const char *KIND_NAMES[KINDS] = {"allocations", "pinned",  "streams",
                                        "events",      "graphs", "executables"};

typedef struct { CUdeviceptr dst, src; size_t size; struct Object *event; HostFunction run;
                 void *data; } Work;
typedef struct { Work *items; size_t count; } Queue;
typedef struct Object {
    struct Object *next;
    enum Kind kind;
    char *memory;            /* an allocation's, or pinned */
    size_t size;
    Queue queue;             /* a stream's waiting work, or a graph's recorded work */
    struct Object *capture;  /* a stream's graph while it records */
    int invalid;             /* the capture met a call that it cannot hold */
    int recorded, waiting;   /* an event: ever recorded, not yet passed */
    struct timespec passed;
} Object;

static Object *objects;
static long mistakes, bytes_in_use;
static int initialised, sticky;
static struct Context { int retained, device; } primary[16];
static __thread struct Context *stack[64];
static __thread int depth;

static Object *create(enum Kind kind) {
    Object *object = calloc(1, sizeof *object);
    object->kind = kind;
    object->next = objects;
    return objects = object;
}

static Object *find(enum Kind kind, const void *handle) {
    for (Object *o = objects; o; o = o->next)
        if (o->kind == kind && (void *)o == handle) return o;
    return NULL;
}

static Object *holder(enum Kind kind, uint64_t address, size_t size) {
    for (Object *o = objects; o; o = o->next) {
        uint64_t start = (uint64_t)o->memory;
        if (o->kind == kind && address >= start && address + size <= start + o->size) return o;
    }
    return NULL;
}

static void destroy(Object *object) {
    Object **link = &objects;
    while (*link != object) link = &(*link)->next;
    *link = object->next;
    free(object->queue.items);
    free(object->memory);
    free(object);
}

static CUresult mistaken(CUresult code) { mistakes++; return code; }

#define CALL(name)                                            \
    do {                                                      \
        CUresult fail_ = asked_to_fail(#name);                \
        if (fail_) return fail_;                              \
        if (!initialised) return mistaken(NOT_INITIALIZED);   \
    } while (0)
#define CALL_IN_CONTEXT(name)                                              \
    CALL(name);                                                            \
    if (!depth) return mistaken(INVALID_CONTEXT);                          \
    if (!stack[depth - 1]->retained) return mistaken(CONTEXT_IS_DESTROYED)

/* ---- streams' work ---- */

static void add(Queue *queue, Work work) {
    queue->items = realloc(queue->items, (queue->count + 1) * sizeof work);
    queue->items[queue->count++] = work;
}

static void perform(Work *work) {
    if (work->run) work->run(work->data);
    else if (work->event) {
        work->event->waiting--;
        clock_gettime(CLOCK_MONOTONIC, &work->event->passed);
    } else if (holder(ALLOCATION, work->dst, work->size)
               || holder(ALLOCATION, work->src, work->size))
        memcpy((void *)work->dst, (void *)work->src, work->size);
    else sticky = ILLEGAL_ADDRESS;
}

static CUresult finish(Object *stream) {
    Queue queue = stream->queue;
    stream->queue = (Queue){0};
    for (size_t i = 0; i < queue.count && !sticky; i++) perform(&queue.items[i]);
    free(queue.items);
    return sticky;
}

static int is_capturing(void) {
    for (Object *o = objects; o; o = o->next)
        if (o->kind == STREAM && o->capture) return 1;
    return 0;
}

static CUresult finish_all(void) {
    for (Object *o = objects; o; o = o->next)
        if (o->kind == STREAM && o->capture) o->invalid = 1;
    if (is_capturing()) return CAPTURE_UNSUPPORTED;
    for (Object *o = objects; o; o = o->next)
        if (o->kind == STREAM) finish(o);
    return sticky;
}

static CUresult enqueue(Object *stream, Work work) {
    if (sticky) return sticky;
    if (stream->capture) {
        add(&stream->capture->queue, work);
        return OK;
    }
    if (work.event) work.event->recorded = 1, work.event->waiting++;
    add(&stream->queue, work);
    return OK;
}

/* Pageable memory is staged by the driver: the caller may reuse it at once. */
static CUresult copy(void *handle, CUdeviceptr dst, CUdeviceptr src, CUdeviceptr device_side,
                     CUdeviceptr host_side, size_t size) {
    Object *stream = find(STREAM, handle);
    if (!stream) return mistaken(INVALID_HANDLE);
    if (!holder(ALLOCATION, device_side, size)) return mistaken(INVALID_VALUE);
    CUresult status = enqueue(stream, (Work){.dst = dst, .src = src, .size = size});
    if (status || stream->capture || holder(PINNED, host_side, size)) return status;
    return finish(stream);
}
