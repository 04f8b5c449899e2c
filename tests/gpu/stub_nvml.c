/* A stand-in for libnvidia-ml.so.1, for tests of the binding: two devices that are as STUB_NVML says.
 *
 *   ok      both answer everything
 *   lost    the second one has fallen off the bus
 *   mig     the second one is partitioned
 *   broken  nvmlInit fails
 *   hang    nvmlInit never returns
 *
 * Simulated: it has the symbols and structures of NVML that gpu/nvml.py uses, and no driver behind them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SUCCESS 0
#define DRIVER_NOT_LOADED 9
#define NOT_SUPPORTED 3
#define GPU_IS_LOST 15

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct {
    char busIdLegacy[16];
    unsigned int domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32];
} pci_t;

static int is(const char *scene) {
    const char *set = getenv("STUB_NVML");
    return set != NULL && strcmp(set, scene) == 0;
}

static unsigned int number(void *handle) { return (unsigned int)((size_t)handle - 1); }

int nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    if (is("hang"))
        for (;;) pause();
    return is("broken") ? DRIVER_NOT_LOADED : SUCCESS;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return code == GPU_IS_LOST ? "GPU is lost" : "Driver Not Loaded"; }
int nvmlSystemGetDriverVersion(char *text, unsigned int length) {
    snprintf(text, length, "580.65.06");
    return SUCCESS;
}
int nvmlDeviceGetCount_v2(unsigned int *count) {
    *count = 2;
    return SUCCESS;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **handle) {
    if (index == 1 && is("lost")) return GPU_IS_LOST;
    *handle = (void *)(size_t)(index + 1);
    return SUCCESS;
}
int nvmlDeviceGetUUID(void *handle, char *text, unsigned int length) {
    snprintf(text, length, "GPU-0000-%u", number(handle));
    return SUCCESS;
}
int nvmlDeviceGetName(void *handle, char *text, unsigned int length) {
    (void)handle;
    snprintf(text, length, "NVIDIA Stub 24GB");
    return SUCCESS;
}
int nvmlDeviceGetMemoryInfo(void *handle, memory_t *memory) {
    (void)handle;
    memory->total = 24ULL << 30;
    memory->used = 1ULL << 30;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}
int nvmlDeviceGetMinorNumber(void *handle, unsigned int *minor) {
    *minor = number(handle) + 4;
    return SUCCESS;
}
int nvmlDeviceGetPciInfo_v3(void *handle, pci_t *pci) {
    memset(pci, 0, sizeof *pci);
    snprintf(pci->busId, sizeof pci->busId, "00000000:0%u:00.0", number(handle) + 1);
    return SUCCESS;
}
int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
    (void)handle;
    *major = 8;
    *minor = 9;
    return SUCCESS;
}
int nvmlDeviceGetMigMode(void *handle, unsigned int *current, unsigned int *pending) {
    if (!is("mig")) return NOT_SUPPORTED;
    *current = *pending = number(handle);
    return SUCCESS;
}
