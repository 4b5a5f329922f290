/* A CUDA driver over host memory: what the device layer calls, run by malloc and memcpy.
 *
 * It is strict where a real driver is: no context, unknown handles, copies beyond an allocation,
 * double frees and synchronising within a capture are errors. And it is late where a real one may
 * be: work on a stream is queued, and done only when something waits for it, so that a forgotten
 * synchronize() shows in the results. Calls are not guarded against one another: one thread.
 *
 * Environment: DMCP_CUDA_DEVICES (1), DMCP_CUDA_MEMORY (bytes, 1 GiB), DMCP_CUDA_VERSION (13000),
 * DMCP_CUDA_FAIL ("cuMemFree_v2=700": that call fails with that code).
 * dmcp_live("allocations") counts what lives: see the end of the file.
 */
#include "host.h"

CUresult cuInit(unsigned flags) {
    CUresult fail = asked_to_fail("cuInit");
    if (fail) return fail;
    initialised = setting("DMCP_CUDA_DEVICES", 1) > 0;
    return initialised ? OK : NO_DEVICE;
}
CUresult cuDriverGetVersion(int *version) {
    *version = (int)setting("DMCP_CUDA_VERSION", 13000);
    return OK;
}
static CUresult describe(CUresult code, const char **text, int wants_name) {
    *text = wants_name ? NULL : "unrecognized error code";
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].code == code) {
            *text = wants_name ? ERRORS[i].name : ERRORS[i].text;
            return OK;
        }
    return INVALID_VALUE;
}
CUresult cuGetErrorName(CUresult code, const char **text) { return describe(code, text, 1); }
CUresult cuGetErrorString(CUresult code, const char **text) { return describe(code, text, 0); }

CUresult cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags,
                             int *status) {
    static const char *suffixes[] = {"_v4", "_v3", "_v2", "WithFlags", ""};
    char name[128];
    *function = NULL;
    for (size_t i = 0; i < 5 && !*function; i++) {
        snprintf(name, sizeof name, "%s%s", symbol, suffixes[i]);
        *function = dlsym(RTLD_DEFAULT, name);
    }
    if (status) *status = *function ? 0 : 1;
    return *function ? OK : NOT_FOUND;
}

CUresult cuDeviceGetCount(int *count) {
    CALL(cuDeviceGetCount);
    *count = (int)setting("DMCP_CUDA_DEVICES", 1);
    return OK;
}
CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    CALL(cuDeviceGet);
    *device = ordinal;
    return ordinal >= 0 && ordinal < setting("DMCP_CUDA_DEVICES", 1) ? OK : INVALID_DEVICE;
}
CUresult cuDeviceGetName(char *name, int length, CUdevice device) {
    CALL(cuDeviceGetName);
    snprintf(name, length, "Host memory %d", device);
    return OK;
}
CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) {
    CALL(cuDeviceTotalMem_v2);
    *bytes = setting("DMCP_CUDA_MEMORY", 1L << 30);
    return OK;
}
CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device) {
    CALL(cuDeviceGetAttribute);
    int capability = setting("DMCP_CUDA_CAPABILITY", 87);
    *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : 0;
    return OK;
}
CUresult cuDevicePrimaryCtxRetain(struct Context **context, CUdevice device) {
    CALL(cuDevicePrimaryCtxRetain);
    if (device < 0 || device >= setting("DMCP_CUDA_DEVICES", 1)) return mistaken(INVALID_DEVICE);
    *context = &primary[device];
    primary[device].retained++;
    primary[device].device = device;
    return OK;
}
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    CALL(cuDevicePrimaryCtxRelease_v2);
    if (device < 0 || device >= 16 || !primary[device].retained) return mistaken(INVALID_CONTEXT);
    primary[device].retained--;
    return OK;
}
CUresult cuCtxPushCurrent_v2(struct Context *context) {
    CALL(cuCtxPushCurrent_v2);
    if (!context || !context->retained || depth == 64) return mistaken(INVALID_CONTEXT);
    stack[depth++] = context;
    return OK;
}
CUresult cuCtxPopCurrent_v2(struct Context **context) {
    CALL(cuCtxPopCurrent_v2);
    if (!depth) return mistaken(INVALID_CONTEXT);
    depth--;
    if (context) *context = stack[depth];
    return OK;
}
CUresult cuCtxGetCurrent(struct Context **context) {
    CALL(cuCtxGetCurrent);
    *context = depth ? stack[depth - 1] : NULL;
    return OK;
}
CUresult cuCtxSynchronize(void) { CALL_IN_CONTEXT(cuCtxSynchronize); return finish_all(); }

CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    CALL_IN_CONTEXT(cuMemGetInfo_v2);
    *total = setting("DMCP_CUDA_MEMORY", 1L << 30);
    *free_bytes = *total - bytes_in_use;
    return OK;
}
CUresult cuMemAlloc_v2(CUdeviceptr *pointer, size_t size) {
    CALL_IN_CONTEXT(cuMemAlloc_v2);
    if (!size) return mistaken(INVALID_VALUE);
    long total = setting("DMCP_CUDA_MEMORY", 1L << 30);
    if (size > (size_t)(total - bytes_in_use)) return OUT_OF_MEMORY;
    Object *allocation = create(ALLOCATION);
    allocation->size = size;
    allocation->memory = memset(malloc(size), 0xA5, size); /* fresh memory holds no zeros */
    bytes_in_use += size;
    *pointer = (CUdeviceptr)allocation->memory;
    return OK;
}
CUresult cuMemFree_v2(CUdeviceptr pointer) {
    CALL_IN_CONTEXT(cuMemFree_v2);
    Object *allocation = holder(ALLOCATION, pointer, 0);
    if (!allocation || (CUdeviceptr)allocation->memory != pointer) return mistaken(INVALID_VALUE);
    CUresult status = finish_all();
    if (status) return status;
    bytes_in_use -= allocation->size;
    destroy(allocation);
    return OK;
}
CUresult cuMemHostAlloc(void **pointer, size_t size, unsigned flags) {
    CALL_IN_CONTEXT(cuMemHostAlloc);
    if (!size) return mistaken(INVALID_VALUE);
    Object *pinned = create(PINNED);
    pinned->size = size;
    pinned->memory = memset(aligned_alloc(4096, (size + 4095) & ~4095UL), 0x5A, size);
    *pointer = pinned->memory;
    return OK;
}
CUresult cuMemFreeHost(void *pointer) {
    CALL_IN_CONTEXT(cuMemFreeHost);
    Object *pinned = holder(PINNED, (uint64_t)pointer, 0);
    if (!pinned || pinned->memory != pointer) return mistaken(INVALID_VALUE);
    CUresult status = finish_all();
    if (!status) destroy(pinned);
    return status;
}
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr dst, const void *src, size_t size, void *stream) {
    CALL_IN_CONTEXT(cuMemcpyHtoDAsync_v2);
    return copy(stream, dst, (CUdeviceptr)src, dst, (CUdeviceptr)src, size);
}
CUresult cuMemcpyDtoHAsync_v2(void *dst, CUdeviceptr src, size_t size, void *stream) {
    CALL_IN_CONTEXT(cuMemcpyDtoHAsync_v2);
    return copy(stream, (CUdeviceptr)dst, src, src, (CUdeviceptr)dst, size);
}
CUresult cuLaunchHostFunc(void *handle, HostFunction run, void *data) {
    CALL_IN_CONTEXT(cuLaunchHostFunc);
    Object *stream = find(STREAM, handle);
    return stream ? enqueue(stream, (Work){.run = run, .data = data}) : mistaken(INVALID_HANDLE);
}

CUresult cuStreamCreate(Object **stream, unsigned flags) {
    CALL_IN_CONTEXT(cuStreamCreate);
    *stream = create(STREAM);
    return OK;
}
CUresult cuStreamDestroy_v2(Object *stream) {
    CALL_IN_CONTEXT(cuStreamDestroy_v2);
    if (!find(STREAM, stream)) return mistaken(INVALID_HANDLE);
    finish(stream);
    destroy(stream);
    return OK;
}
CUresult cuStreamSynchronize(Object *stream) {
    CALL_IN_CONTEXT(cuStreamSynchronize);
    if (!find(STREAM, stream)) return mistaken(INVALID_HANDLE);
    if (!stream->capture) return finish(stream);
    stream->invalid = 1;
    return CAPTURE_UNSUPPORTED;
}
CUresult cuEventCreate(Object **event, unsigned flags) {
    CALL_IN_CONTEXT(cuEventCreate);
    *event = create(EVENT);
    return OK;
}
CUresult cuEventDestroy_v2(Object *event) {
    CALL_IN_CONTEXT(cuEventDestroy_v2);
    if (!find(EVENT, event)) return mistaken(INVALID_HANDLE);
    if (event->waiting) finish_all();
    destroy(event);
    return OK;
}
CUresult cuEventRecord(Object *event, void *stream) {
    CALL_IN_CONTEXT(cuEventRecord);
    if (!find(EVENT, event) || !find(STREAM, stream)) return mistaken(INVALID_HANDLE);
    return enqueue(stream, (Work){.event = event});
}
CUresult cuEventSynchronize(Object *event) {
    CALL_IN_CONTEXT(cuEventSynchronize);
    if (!find(EVENT, event)) return mistaken(INVALID_HANDLE);
    return event->waiting ? finish_all() : sticky;
}
CUresult cuEventElapsedTime(float *ms, Object *start, Object *end) {
    CALL_IN_CONTEXT(cuEventElapsedTime);
    if (!find(EVENT, start) || !find(EVENT, end)) return mistaken(INVALID_HANDLE);
    if (!start->recorded || !end->recorded) return mistaken(INVALID_HANDLE);
    if (start->waiting || end->waiting) return NOT_READY;
    *ms = (end->passed.tv_sec - start->passed.tv_sec) * 1e3f
          + (end->passed.tv_nsec - start->passed.tv_nsec) * 1e-6f;
    return OK;
}
#ifndef OLDER
CUresult cuEventElapsedTime_v2(float *ms, Object *start, Object *end) {
    return cuEventElapsedTime(ms, start, end);
}
#endif

CUresult cuStreamBeginCapture_v2(Object *stream, int mode) {
    CALL_IN_CONTEXT(cuStreamBeginCapture_v2);
    if (!find(STREAM, stream) || stream->capture) return mistaken(INVALID_HANDLE);
    stream->capture = create(GRAPH);
    stream->invalid = 0;
    return OK;
}
CUresult cuStreamEndCapture(Object *stream, Object **graph) {
    CALL_IN_CONTEXT(cuStreamEndCapture);
    *graph = NULL;
    if (!find(STREAM, stream) || !stream->capture) return mistaken(INVALID_HANDLE);
    if (stream->invalid) destroy(stream->capture);
    else *graph = stream->capture;
    stream->capture = NULL;
    return *graph ? OK : CAPTURE_INVALIDATED;
}
CUresult cuGraphInstantiateWithFlags(Object **executable, Object *graph, uint64_t flags) {
    CALL_IN_CONTEXT(cuGraphInstantiateWithFlags);
    if (!find(GRAPH, graph)) return mistaken(INVALID_VALUE);
    *executable = create(EXECUTABLE);
    for (size_t i = 0; i < graph->queue.count; i++)
        add(&(*executable)->queue, graph->queue.items[i]);
    return OK;
}
CUresult cuGraphLaunch(Object *executable, Object *stream) {
    CALL_IN_CONTEXT(cuGraphLaunch);
    if (!find(EXECUTABLE, executable) || !find(STREAM, stream)) return mistaken(INVALID_HANDLE);
    for (size_t i = 0; i < executable->queue.count; i++) {
        CUresult status = enqueue(stream, executable->queue.items[i]);
        if (status) return status;
    }
    return OK;
}
CUresult cuGraphExecDestroy(Object *executable) {
    CALL(cuGraphExecDestroy);
    if (!find(EXECUTABLE, executable)) return mistaken(INVALID_HANDLE);
    destroy(executable);
    return OK;
}
CUresult cuGraphDestroy(Object *graph) {
    CALL(cuGraphDestroy);
    if (!find(GRAPH, graph)) return mistaken(INVALID_HANDLE);
    destroy(graph);
    return OK;
}

/* What else the libraries link against. */
#define UNSUPPORTED(name) \
    CUresult name(void) { return NOT_SUPPORTED; }
#include "unsupported.h"

/* "contexts" (retained), "current" (this thread's stack), "mistakes" (calls that no correct
 * program makes), or a kind's name; -1 for an unknown word. */
long dmcp_live(const char *what) {
    long count = 0;
    if (!strcmp(what, "mistakes")) return mistakes;
    if (!strcmp(what, "current")) return depth;
    if (!strcmp(what, "contexts")) {
        for (int i = 0; i < 16; i++) count += primary[i].retained;
        return count;
    }
    for (int kind = 0; kind < KINDS; kind++) {
        if (strcmp(what, KIND_NAMES[kind])) continue;
        for (Object *o = objects; o; o = o->next) count += (int)o->kind == kind;
        return count;
    }
    return -1;
}
